"""Check that one binary of the op library runs in every supported ONNX Runtime.

The binary may need only certain system libraries.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cpu_paths import Call, Outputs, need_op_library, outputs_of, refusal, run_calls
from sdk_build import built
from wheels import OLDEST_ONNXRUNTIME, onnxruntime_folder

from vmoe_runtime import Engine, library_path
from vmoe_runtime.installation import oldest_supported

pytestmark = [pytest.mark.long, pytest.mark.slow]

need_op_library()

VERSIONS = (OLDEST_ONNXRUNTIME, "1.24.4")
TOO_OLD = "1.20.1"
PROFILES = ("c0.1-k1", "c0.3-k2", "c0.5-k1-vanilla", "c1.05-k2")
SYSTEM_LIBRARIES = {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "libdl", "ld-linux-x86-64", "ld-linux-aarch64"}


@pytest.fixture(scope="module")
def calls(mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]) -> list[Call]:
    return bundle_calls(mnist_image_bundle, mnist_images["images"])


@pytest.fixture(scope="module")
def here(calls: list[Call]) -> list[Outputs]:
    """Return the outputs of the calls in this environment's ONNX Runtime."""
    assert len(calls) == len(PROFILES)
    return outputs_of(run_calls(calls))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bundle_gives_the_same_places_and_logits(version: str, calls: list[Call], here: list[Outputs]) -> None:
    for (logits, *routes), (expected, *expected_routes) in zip(
        outputs_of(run_calls(calls, packages=onnxruntime_folder(version))), here, strict=True
    ):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        for what in (0, 1):  # expert and kept
            for found, wanted in zip(routes[what::3], expected_routes[what::3], strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_an_older_one_is_refused_by_name() -> None:
    message = refusal(Path(library_path()), packages=onnxruntime_folder(TOO_OLD))
    oldest = oldest_supported("onnxruntime")
    assert f"the vmoe op library needs ONNX Runtime {oldest} or newer, this is {TOO_OLD}" in message


def test_the_library_exports_its_entry_point_and_its_path_alone() -> None:
    assert exported_names(library_path()) == ["RegisterCustomOps", "vmoe_cpu_path"]


def test_the_library_needs_the_c_and_cpp_runtimes_alone() -> None:
    assert_needs_the_c_and_cpp_runtimes_alone(library_path())


def bundle_calls(bundle: Path, pictures: np.ndarray) -> list[Call]:
    """Return calls of the MNIST bundle's canonical graph at several profiles, on the first test images."""
    images = (pictures[:32, ..., None] / 127.5 - 1).astype(np.float32)
    with Engine.load(bundle) as engine:
        chosen = [engine.setting(profile) for profile in PROFILES]
    return [Call(bundle / "model.onnx", {"image": images} | setting.inputs) for setting in chosen if setting]


def exported_names(library: str | Path) -> list[str]:
    return [line.split()[-1] for line in built("nm", "-D", "--defined-only", library).splitlines()]


def assert_needs_the_c_and_cpp_runtimes_alone(library: str | Path) -> None:
    listed = built("ldd", library)
    assert "not found" not in listed
    needed = {re.split(r"[.]so", Path(line.split()[0]).name)[0] for line in listed.splitlines()}
    assert "libc" in needed
    assert needed - {"linux-vdso"} <= SYSTEM_LIBRARIES
