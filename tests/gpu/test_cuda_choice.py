"""Tests for GPUs, drivers, profiles and bundles that the CUDA backends refuse before they load anything.

Drivers and op libraries are fakes. If a graph is loaded, it runs in ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_gpu
import golden
import numpy as np
import onnxruntime
import pytest
from damaged_files import assert_one_sentence, refusal
from sdk_build import ROOT

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine, RoutingError
from vmoe_runtime.backends import (
    BACKENDS,
    Parallelism,
    cuda_library,
    cuda_routing,
    nvidia_gpu,
    onnxruntime_cuda,
    open_backend,
)
from vmoe_runtime.backends.cuda_library import runs_on
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError, UnsuitedError
from vmoe_runtime.installation import CUDA_OP_LIBRARY, find_native
from vmoe_tools.machine import availability, chosen_by_auto

LISTED = re.search(r"set\(VMOE_CUDA_ARCHITECTURES ([^\n]*)", (ROOT / "plugins/cmake/Prerequisites.cmake").read_text())
BUILT = "" if LISTED is None else LISTED[1]
PROFILE = "c0.3-k1"
REAL_LIBRARY = find_native("lib", CUDA_OP_LIBRARY)

Setup = Callable[..., None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Export a bundle with two profiles. For one of them, the bundle also has a graph for TensorRT, in float16."""
    target = tmp_path_factory.mktemp("choice") / "own.vmoe"
    options: dict[str, Any] = {"precision": "fp16", "tensorrt": True, "validate": False}
    export_bundle(mnist_checkpoint, target, capacity=[0.3], k=[1], **options)
    return target


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """Return a function that makes this machine seem to have a GPU.

    Unless `library` is false, the machine also seems to have an op library for CUDA.
    """

    def setup(
        capability: str = "9.0", cuda: tuple[int, int] = (13, 0), library: bool = True, built_with: int = 13000
    ) -> None:
        found = fake_gpu.op_library(tmp_path, BUILT, built_with) if library else None
        monkeypatch.setattr(cuda_library, "find_native", lambda *_: found)
        monkeypatch.setattr(nvidia_gpu, "_DRIVER", str(fake_gpu.driver(tmp_path, capability, cuda)))
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        monkeypatch.setattr(onnxruntime_cuda, "missing_library", lambda _: None)
        monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)

    return setup


@pytest.fixture
def real_library(machine: Setup, on_cpu: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine seem to have a GPU, with the real op library for CUDA. Graphs for CUDA run on the CPU."""
    machine()
    monkeypatch.setattr(cuda_library, "find_native", lambda *_: REAL_LIBRARY)


def assert_passed_over(
    path: Path, kind: type[BackendError], *says: str, profile: str = PROFILE, backend: str = "cuda"
) -> None:
    """Assert that the backend refuses the bundle with one sentence that contains `says`, and that "auto" selects the CPU.

    `availability`, which checks the backend without loading it, must give the same sentence.
    """
    opened = Bundle.open(path)
    rules = opened.manifest.rules
    chosen = None if rules is None else rules.named(profile)
    with pytest.raises(kind) as refused:
        open_backend(backend, opened, Parallelism(), chosen)
    assert_one_sentence(str(refused.value), *says)
    found = {name: availability(name, opened, chosen) for name in BACKENDS}
    assert isinstance(found[backend], BackendError)
    assert str(found[backend]) == str(refused.value)
    assert chosen_by_auto(found) in ("onnxruntime", "openvino")
    assert open_backend("auto", opened, Parallelism(), chosen)[0] in ("onnxruntime", "openvino")


@pytest.mark.parametrize("backend", ["cuda", "cuda-fixed"])
def test_a_gpu_that_the_op_library_has_no_code_for_is_passed_over(bundle: Path, machine: Setup, backend: str) -> None:
    machine("7.5")
    says = (f"compiled for the architectures {BUILT}", f"{fake_gpu.NAME} has compute capability 7.5", "for the CPU")
    assert_passed_over(bundle, UnavailableError, *says, backend=backend)


@pytest.mark.parametrize(
    ("built_with", "needed", "cuda", "found"), [(13000, "13", (12, 8), "12.8"), (12080, "12.4", (12, 2), "12.2")]
)
def test_a_driver_that_is_too_old_for_the_op_library_is_passed_over(
    bundle: Path, machine: Setup, built_with: int, needed: str, cuda: tuple[int, int], found: str
) -> None:
    machine(cuda=cuda, built_with=built_with)
    says = (
        f"op library needs a driver for CUDA {needed},",
        f"the one on this machine is for CUDA {found};",
        "update the driver",
    )
    assert_passed_over(bundle, UnavailableError, *says)


@pytest.mark.parametrize(
    ("capability", "cuda", "built_with"),
    [("8.0", (13, 0), 13000), ("8.9", (12, 4), 12080), ("11.0", (13, 0), 13000), ("12.1", (14, 0), 13000)],
)
def test_a_gpu_and_a_driver_that_will_do_are_taken(
    bundle: Path, machine: Setup, capability: str, cuda: tuple[int, int], built_with: int
) -> None:
    machine(capability, cuda, built_with=built_with)
    found = availability("cuda", Bundle.open(bundle), None)
    assert isinstance(found, str)
    assert found.endswith(f" CUDA on {fake_gpu.NAME}, vmoe CUDA op library")
    assert chosen_by_auto(dict.fromkeys(("onnxruntime", "cuda"), found)) == "cuda"


def test_without_an_op_library_standard_ops_run_on_any_gpu(bundle: Path, machine: Setup) -> None:
    machine("7.5", (12, 8), library=False)
    found = availability("cuda", Bundle.open(bundle), None)
    assert isinstance(found, str)
    assert found.endswith(", standard ops")


def test_a_dense_model_runs_on_any_gpu(tmp_path: Path, machine: Setup) -> None:
    export_bundle(golden.FOLDER / "g4", tmp_path / "dense.vmoe", tensorrt=True, validate=False)
    machine("7.5", (12, 8))
    for backend in ("cuda", "cuda-fixed"):
        assert isinstance(availability(backend, Bundle.open(tmp_path / "dense.vmoe"), None), str)


def test_a_damaged_library_is_one_sentence(
    bundle: Path, machine: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    library = tmp_path / "empty.so"
    library.touch()
    monkeypatch.setattr(cuda_library, "find_native", lambda *_: library)
    with refusal(BackendError, str(library), "can't be loaded", "install vmoe-export again"):
        open_backend("cuda", Bundle.open(bundle), Parallelism())


@pytest.mark.parametrize(
    ("built", "gpu", "runs"),
    [
        ("80", "7.5", False),
        ("80", "8.9", True),
        ("80", "12.0", True),
        ("80-real", "9.0", False),
        ("86-real", "8.0", False),
        ("90-real 100-real", "10.3", True),
        ("120-virtual", "11.0", False),
        ("120-virtual", "12.0", True),
        ("native", "5.0", True),
    ],
)
def test_what_code_runs_on(built: str, gpu: str, runs: bool) -> None:
    assert runs_on(built, gpu) is runs


@pytest.mark.parametrize(
    ("profile", "says"),
    [("c0.3-k1-pool", "no pool of slots"), ("c0.3-k1-m4", "no limit of experts")],
)
def test_a_profile_with_a_policy_is_passed_over(bundle: Path, machine: Setup, profile: str, says: str) -> None:
    machine()
    assert_passed_over(bundle, UnsuitedError, "CUDA op library has ", says, f"'{profile}'", "for the CPU", profile=profile)


@pytest.mark.parametrize("limit", ["MOST_TOKENS", "MOST_EXPERTS"])
def test_groups_that_the_kernels_can_not_route_are_passed_over(
    bundle: Path, machine: Setup, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    machine()
    monkeypatch.setattr(cuda_routing, limit, 7)
    assert_passed_over(bundle, UnsuitedError, "and 8;", "for the CPU")


def test_the_limits_are_those_of_the_kernels() -> None:
    header = (ROOT / "plugins" / "cuda" / "limits.h").read_text()
    in_cpp = {name: int(value) for name, value in re.findall(r"size_t kMost(\w+) = (\d+);", header)}
    ours = {"Tokens": cuda_routing.MOST_TOKENS, "Experts": cuda_routing.MOST_EXPERTS, "Choices": cuda_routing.MOST_CHOICES}
    assert in_cpp == ours


@pytest.mark.skipif(REAL_LIBRARY is None, reason="the op library for CUDA was not built here: it needs nvcc")
def test_a_call_that_needs_a_policy_is_refused_before_it_runs(
    bundle: Path, real_library: None, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:2]
    with Engine.load(bundle, PROFILE, "cuda") as engine:
        expected = engine(images)
        for fields, says in (({"pool": True}, "no pool of slots"), ({"max_experts": 7}, "no limit of experts")):
            with refusal(RoutingError, "CUDA op library has ", says, "for the CPU"):
                engine(images, **fields)  # type: ignore[arg-type]
        np.testing.assert_array_equal(engine(images, pool=False, max_experts=8), expected)
        assert engine(images, capacity=1.05, k=8, bpr=False).shape == expected.shape


@pytest.mark.skipif(REAL_LIBRARY is None, reason="the op library for CUDA was not built here: it needs nvcc")
def test_a_fixed_graph_in_half_precision_answers_as_the_bundle_does(
    bundle: Path, real_library: None, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:64]
    with Engine.load(bundle, PROFILE, "cuda-fixed") as engine, Engine.load(bundle, PROFILE, "onnxruntime") as cpu:
        assert engine.backend_description.endswith(f"CUDA on {fake_gpu.NAME}, fp16, vmoe CUDA op library")
        assert engine.only_profile is not None and engine.only_profile.name == PROFILE
        wanted = cpu(images)
        distances = np.abs(engine(images) - wanted).max(axis=1)
        assert 0 < np.median(distances) < 2e-2 * np.abs(wanted).max()
        for found, expected in zip(engine.routing(images).values(), cpu.routing(images).values(), strict=True):
            assert np.mean(found.kept == expected.kept) > 0.95
        with pytest.raises(RoutingError, match="backend 'cuda-fixed' was loaded for profile"):
            engine(images, capacity=1.05)
    with pytest.raises(BackendError, match="has no graph for TensorRT at profile 'c1-k2'"):
        Engine.load(bundle, "c1-k2", "cuda-fixed")
