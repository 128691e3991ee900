"""Tests for `vmoe build` and the backend `tensorrt`.

They use the fake TensorRT and the fake CUDA runtime in fake_tensorrt.py.
"""

from __future__ import annotations

import gc
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import fake_gpu
import fake_tensorrt
import golden
import numpy as np
import pytest
import sdk_build
from bundle_changes import flipped
from command_runs import Vmoe
from damaged_files import assert_one_sentence, copied_bundle, refusal
from fake_tensorrt import FakeTensorRt

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine, ImageError, RoutingError, installation
from vmoe_runtime.backends import cuda_library
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.errors import UnavailableError
from vmoe_tools import program
from vmoe_tools.build import trtexec
from vmoe_tools.build.check import Check, refuse_wrong_answers

PROFILE = "c0.3-k1"
Images = dict[str, np.ndarray]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the backends use an empty file as the TensorRT plugin.

    Many installations don't have the real plugin.
    """
    library = tmp_path / "libvmoe_tensorrt.so"
    library.touch()
    find = installation.find_native

    def find_native(*path: str) -> Path | None:
        return library if path[-1] == installation.TENSORRT_PLUGIN else find(*path)

    monkeypatch.setattr(installation, "find_native", find_native)
    monkeypatch.setattr(trtexec, "find_native", find_native)
    return library


@pytest.fixture
def tensorrt(cache: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """Install the fake TensorRT, with an empty cache for built engines."""
    return fake_tensorrt.install(monkeypatch)


def build(*arguments: object) -> int:
    """Run `vmoe build` and return its exit code."""
    return program.main(["build", *map(str, arguments)])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.engine")) if folder.exists() else []


def assert_refuses(vmoe: Vmoe, arguments: list[object], code: int, *names: str) -> None:
    """Assert that `vmoe build` ends with exit code `code`.

    It must print one line on stderr that contains `names`.
    """
    out, err = vmoe.run("build", *arguments, code=code)
    assert out == ""
    *progress, last = err.splitlines()
    assert all(line.startswith("vmoe: ") for line in (*progress, last))
    assert_one_sentence(last, *names)


def test_an_engine_is_built_checked_kept_and_run(
    bundle: Path, tensorrt: FakeTensorRt, cache: Path, mnist_images: Images, vmoe: Vmoe
) -> None:
    report = json.loads(vmoe.run("build", bundle, "--profile", PROFILE, "--batch-size", 8, "--json", "-")[0])
    assert (report["min_batch"], report["opt_batch"], report["max_batch"]) == (1, 8, 8)
    assert [(check["batch"], check["images"]) for check in report["checks"]] == [(1, 8), (8, 8)]
    for check in report["checks"]:
        assert check["agreement"] == 1.0 and check["max_difference"] < 1e-5 < check["largest_output"]
    assert (report["profile"], report["precision"], report["tensorrt"]) == (PROFILE, "fp32", "10.13.0.35")
    assert files(cache) == [Path(report["engine"]).name]
    images = mnist_images["images"][:8]
    with Engine.load(bundle, PROFILE, "tensorrt") as engine, Engine.load(bundle, PROFILE, "onnxruntime") as cpu:
        assert engine.backend_description == "TensorRT 10.13.0.35 on NVIDIA H100 80GB HBM3, fp32, batches of 1 to 8"
        np.testing.assert_allclose(engine(images), cpu(images), rtol=0, atol=1e-5)
        for found, wanted in zip(engine.routing(images).values(), cpu.routing(images).values(), strict=True):
            np.testing.assert_array_equal(found.kept, wanted.kept)
            # For a dropped pair, a graph for TensorRT returns -1 as the expert.
            np.testing.assert_array_equal(found.expert, np.where(wanted.kept, wanted.expert, -1))
            np.testing.assert_allclose(found.weight, wanted.weight, rtol=0, atol=1e-6)


def test_options_reach_the_build_and_an_engine_that_is_there_is_not_built_again(
    bundle: Path, tensorrt: FakeTensorRt, plugin: Path, cache: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    sizes = ["--min-batch-size", 2, "--opt-batch-size", 4, "--batch-size", 6]
    assert vmoe.run("build", bundle, *sizes, "--workspace", 512, "--serialize-plugin", "-q") == ("", "")
    assert tensorrt.built[0] == {
        "shapes": ((2, 28, 28, 1), (4, 28, 28, 1), (6, 28, 28, 1)),
        "workspace": 512 << 20,
        "plugins_to_serialize": [str(plugin)],
        "cache": b"",
    }
    said = ""
    for more, builds in (([], 2), ([], 2), (["--force"], 3), (["--serialize-plugin"], 4)):
        said += vmoe.run("build", bundle, "--json", tmp_path / "x.json", *more)[0]
        assert len(tensorrt.built) == builds
    assert tensorrt.built[1]["shapes"][2] == (32, 28, 28, 1) and tensorrt.built[1]["cache"] == b"measured;"
    (engine,) = files(cache)
    assert json.loads((tmp_path / "x.json").read_text())["engine"].endswith(engine)
    assert said.count("already") == 1


@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        ("error", 0.01, "in calls of 1 images the engine's outputs differ from those of ONNX Runtime"),
        ("error", float("nan"), "the engine was not kept"),
        ("wrong_batch", 3, "in calls of 3 images the engine's outputs differ"),
        ("error", None, "c0.3-k1.tensorrt.onnx: it is a fake that fails"),
        ("__version__", "10.12.0.36", "TensorRT 10.12.0.36 is too old; run pip install 'tensorrt>=10.13'"),
        ("gpu", UnavailableError("there is no NVIDIA driver on this machine"), "there is no NVIDIA driver"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_one_sentence_and_no_engine_is_kept(
    bundle: Path, tensorrt: FakeTensorRt, cache: Path, what: str, value: object, says: str, vmoe: Vmoe
) -> None:
    setattr(tensorrt, what, value)
    assert_refuses(vmoe, [bundle, "--batch-size", 3], 1, says)
    assert files(cache) == []


def test_an_engine_that_routes_otherwise_is_refused() -> None:
    check = Check("CPU", batch=1, images=8, largest_output=1, max_difference=0, median_difference=0, agreement=0.9)
    with pytest.raises(click.ClickException, match=r"routes 90.00% of the pairs as CPU does, .*99.5%"):
        refuse_wrong_answers(check, "fp32")
    refuse_wrong_answers(check, "bf16")


def test_calls_of_many_groups_are_compared_with_each_group_alone(grouped: Path, tensorrt: FakeTensorRt, vmoe: Vmoe) -> None:
    checks = json.loads(vmoe.run("build", grouped, "--batch-size", 48, "--json", "-")[0])["checks"]
    assert [(check["batch"], check["images"]) for check in checks] == [(12, 24), (48, 48)]
    assert {check["agreement"] for check in checks} == {1.0}


def test_nothing_is_built_of_changed_weights_or_for_a_gpu_that_the_plugin_has_no_code_for(
    bundle: Path, tensorrt: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    copy = copied_bundle(bundle, tmp_path / "x.vmoe")
    flipped("weights.safetensors")(copy)
    assert_refuses(vmoe, [copy], 1, "weights.safetensors was changed after export")
    along_with_it = fake_gpu.op_library(tmp_path, "80-real 90-real", 13000)
    monkeypatch.setattr(cuda_library, "find_native", lambda *_: along_with_it)
    tensorrt.gpu = Gpu("NVIDIA Some", "7.5", (13, 0))
    says = "TensorRT plugin was compiled for the architectures 80-real 90-real, and NVIDIA Some has compute capability 7.5"
    assert_refuses(vmoe, [bundle], 1, says)
    with refusal(UnavailableError, says):
        Engine.load(bundle, PROFILE, "tensorrt")
    assert tensorrt.built == []


def test_an_engine_is_only_found_by_what_it_was_built_for(
    bundle: Path, tensorrt: FakeTensorRt, plugin: Path, tmp_path: Path
) -> None:
    def assert_refused(path: Path = bundle, profile: str = PROFILE) -> None:
        built_with = f"no engine was built for profile {profile} with TensorRT {tensorrt.__version__} on NVIDIA"
        with refusal(BackendError, built_with, f"run vmoe build {path} --profile {profile}"):
            Engine.load(path, profile, "tensorrt")

    assert_refused()
    assert build(bundle, "--profile", PROFILE, "-q") == 0
    Engine.load(bundle, PROFILE, "tensorrt").close()
    assert_refused(profile="c1.05-k1")
    assert_refused(
        copied_bundle(bundle, tmp_path / "o.vmoe", files={"model.onnx": (bundle / "model.inlined.onnx").read_bytes()})
    )
    for owner, name, value in (
        (tensorrt, "__version__", "11.4.0.106"),
        (tensorrt, "gpu", Gpu("NVIDIA L4", "9.0", (13, 0))),
        (tensorrt, "gpu", Gpu("NVIDIA H100 80GB HBM3", "8.9", (13, 0))),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, value)
            assert_refused()
    plugin.write_bytes(b"another build of it")
    assert_refused()


def test_a_changed_engine_is_refused_with_the_line_that_builds_it_again(
    bundle: Path, tensorrt: FakeTensorRt, cache: Path, tmp_path: Path
) -> None:
    copy = copied_bundle(bundle, tmp_path / "a b.vmoe")
    assert build(copy, "-q") == 0
    engine = next(cache.rglob("*.engine"))
    engine.write_bytes(engine.read_bytes() + b" ")
    with pytest.raises(BackendError, match="was changed after it was built") as refused:
        Engine.load(copy, PROFILE, "tensorrt")
    line = shlex.split(str(refused.value).partition("; run ")[2])
    assert line == ["vmoe", "build", str(copy), "--profile", PROFILE, "--force"]
    assert build(*line[2:], "-q") == 0
    Engine.load(copy, PROFILE, "tensorrt").close()


def test_an_engine_runs_its_profile_and_no_other(bundle: Path, tensorrt: FakeTensorRt, mnist_images: Images) -> None:
    images = mnist_images["images"][:2]
    assert build(bundle, "--profile", PROFILE, "-q") == 0
    with Engine.load(bundle, PROFILE, "tensorrt") as engine:
        assert engine.only_profile is not None and engine.only_profile.name == PROFILE
        np.testing.assert_array_equal(engine(images), engine(images, PROFILE))
        np.testing.assert_array_equal(engine(images), engine(images, capacity=0.3, k=1, bpr=True))
        for other in ({"profile": "c1.05-k1"}, {"capacity": 0.5}, {"k": 2}, {"bpr": False}):
            with refusal(RoutingError, "backend 'tensorrt'", f"'{PROFILE}'", "load an engine with profile="):
                engine(images, **other)  # type: ignore[arg-type]


def test_a_batch_must_be_in_the_range_of_the_engine(bundle: Path, tensorrt: FakeTensorRt, mnist_images: Images) -> None:
    assert build(bundle, "--min-batch-size", "2", "--batch-size", "4", "-q") == 0
    with Engine.load(bundle, backend="tensorrt") as engine:
        assert engine(mnist_images["images"][:4]).shape == (4, 10)
        for count, option in ((1, "--min-batch-size 1"), (5, "--batch-size 5")):
            with pytest.raises(ImageError, match=f"built for 2 to 4 images, and the batch has {count}.*{option}"):
                engine(mnist_images["images"][:count])


def test_eight_threads_share_two_execution_contexts(bundle: Path, tensorrt: FakeTensorRt, mnist_images: Images) -> None:
    batches = mnist_images["images"][: 8 * 16].reshape(8, 16, 28, 28)
    assert build(bundle, "-q") == 0
    before = tensorrt.contexts
    with Engine.load(bundle, backend="tensorrt") as engine:
        expected = [engine(batch) for batch in batches]
        assert tensorrt.contexts - before == 1
        with ThreadPoolExecutor(8) as pool:
            for _ in range(4):
                for found, wanted in zip(pool.map(engine, batches), expected, strict=True):
                    np.testing.assert_array_equal(found, wanted)
    assert tensorrt.contexts - before <= 2


def test_a_gpu_without_memory_is_one_sentence_and_all_of_it_is_freed(
    bundle: Path, tensorrt: FakeTensorRt, mnist_images: Images
) -> None:
    assert build(bundle, "-q") == 0
    with Engine.load(bundle, backend="tensorrt") as engine:
        tensorrt.cuda.refuses = "cudaMalloc"
        with pytest.raises(BackendError, match=r"CUDA failed: .*\(cudaErrorMemoryAllocation of cudaMalloc\)"):
            engine(mnist_images["images"][:2])
        gc.collect()
        assert tensorrt.cuda.device == tensorrt.cuda.pinned == {}
        tensorrt.cuda.refuses = ""
        assert engine(mnist_images["images"][:2]).shape == (2, 10)


def test_a_dense_model_has_one_engine_which_needs_no_plugin(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    for module in (installation, trtexec):
        monkeypatch.setattr(module, "find_native", lambda *_: None)
    fake_tensorrt.install(monkeypatch)
    case = golden.Case("g4", golden.settings("g4")["cases"][1])
    dense = tmp_path / "dense.vmoe"
    export_bundle(golden.FOLDER / "g4", dense, tensorrt=True, validate=False)
    assert "lugin" not in "".join(vmoe.run("build", dense, "--print-trtexec"))
    with pytest.raises(BackendError, match="no engine was built for TensorRT"):
        Engine.load(dense, backend="tensorrt")
    assert build(dense, "-q") == 0
    with Engine.load(dense, backend="tensorrt") as engine:
        np.testing.assert_allclose(engine(case.images), case.logits, rtol=0, atol=1e-5)
        assert engine.routing(case.images) == {}
        with pytest.raises(RoutingError, match="was loaded for profile 'r0' and can't run 'r2'"):
            engine(case.images, merge=2)
    with pytest.raises(BackendError, match="only at model; export it again with --tensorrt --merge 2"):
        Engine.load(dense, "r2", "tensorrt")
    assert_refuses(vmoe, [dense, "--profile", "c0.3-k1"], 2, "dense model")


@pytest.mark.parametrize("model", ["g1", "g4"])
def test_an_engine_of_a_profile_that_merges_answers_as_the_cpu_does(
    model: str, tmp_path: Path, tensorrt: FakeTensorRt
) -> None:
    case = golden.Case(model, golden.settings(model)["cases"][1])
    options: dict[str, Any] = {} if model == "g4" else {"capacity": [0.7], "k": [2]}
    export_bundle(golden.FOLDER / model, tmp_path / "b.vmoe", tensorrt=True, merge=2, **options)
    assert build(tmp_path / "b.vmoe", "-q") == 0
    with Engine.load(tmp_path / "b.vmoe", backend="tensorrt") as engine, Engine.load(tmp_path / "b.vmoe") as cpu:
        (found, routes), (expected, others) = (each.logits_and_routing(case.images) for each in (engine, cpu))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert len(routes) == len(others) == (0 if model == "g4" else 2)
        for layer, route in routes.items():
            np.testing.assert_array_equal(route.token, others[layer].token)
            np.testing.assert_array_equal(route.kept, others[layer].kept)
        with pytest.raises(RoutingError, match="was loaded for profile"):
            engine(case.images, merge=1)


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ([], (12, 24, 24)),
        (["--min-batch-size", 36], (36, 36, 36)),
        (["--min-batch-size", 12, "--opt-batch-size", 24, "--batch-size", 120], (12, 24, 120)),
        (["--min-batch-size", 8], None),
        (["--batch-size", 8], None),
        (["--min-batch-size", 24, "--opt-batch-size", 12], None),
    ],
)
def test_batch_sizes_are_multiples_of_the_group(
    sizes: list[object], shapes: tuple[int, int, int] | None, grouped: Path, plugin: Path, vmoe: Vmoe
) -> None:
    if shapes is None:
        assert_refuses(vmoe, [grouped, "--print-trtexec", *sizes], 2, "batch-size ")
    else:
        out, _ = vmoe.run("build", grouped, "--print-trtexec", *sizes)
        words = [f"--{which}Shapes=image:{size}x28x28x1" for which, size in zip(("min", "opt", "max"), shapes, strict=True)]
        assert " ".join(words) in out


def test_print_trtexec_is_one_line_for_the_shell(bundle: Path, plugin: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    copy = copied_bundle(bundle, tmp_path / "it's mine.vmoe")
    options = ["--batch-size", "8", "--opt-batch-size", "4", "--workspace", "256", "--serialize-plugin"]
    out, err = vmoe.run("build", copy, "--print-trtexec", *options)
    assert err == "" and out.count("\n") == 1
    assert shlex.split(out) == [
        "trtexec",
        f"--onnx={copy}/c0.3-k1.tensorrt.onnx",
        "--minShapes=image:1x28x28x1",
        "--optShapes=image:4x28x28x1",
        "--maxShapes=image:8x28x28x1",
        "--stronglyTyped",
        "--noTF32",
        f"--dynamicPlugins={plugin}",
        f"--setPluginsToSerialize={plugin}",
        "--memPoolSize=workspace:256",
        "--timingCacheFile=it's mine.c0.3-k1.timing",
        "--saveEngine=it's mine.c0.3-k1.engine",
        "--skipInference",
    ]


def test_what_the_bundle_lacks_is_one_sentence(bundle: Path, mnist_image_bundle: Path, vmoe: Vmoe) -> None:
    assert_refuses(vmoe, [mnist_image_bundle], 1, "has no graphs for TensorRT: export it again with --tensorrt")
    assert_refuses(vmoe, [bundle, "--profile", "fast"], 2, "no profile 'fast'", "c0.3-k1, c1.05-k1")
    assert_refuses(vmoe, [bundle, "--profile", "c0.3-k99"], 2, "k must be")
    again = "only at c0.3-k1, c1.05-k1; export it again with --tensorrt --capacity 0.5 --k 2 --no-bpr"
    assert_refuses(vmoe, [bundle, "--profile", "c0.5-k2-vanilla"], 1, again)


def test_the_command_without_tensorrt_is_one_sentence(bundle: Path, cache: Path) -> None:
    done = sdk_build.run(sys.executable, "-m", "vmoe_tools", "build", bundle)
    if done.returncode == 0:
        pytest.skip("TensorRT is installed, and built an engine")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), "vmoe: ", "TensorRT")
    assert files(cache) == []
