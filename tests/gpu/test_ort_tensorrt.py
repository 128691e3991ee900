"""What backend `ort-tensorrt` asks ONNX Runtime's TensorRT provider for; its sessions run on the CPU here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import pytest
from damaged_files import assert_one_sentence

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine, ImageError
from vmoe_runtime.backends import cuda_library, onnxruntime_gpu
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools.availability import availability

Images = dict[str, np.ndarray]
Options = dict[str, str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    target = tmp_path_factory.mktemp("ort_tensorrt") / "own.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3], k=[1], tensorrt=True, validate=False)
    return target


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    target = tmp_path_factory.mktemp("ort_tensorrt") / "grouped.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3], k=[1], group="12", tensorrt=True, validate=False)
    return target


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    library = tmp_path / "libvmoe_tensorrt.so"
    library.write_bytes(b"a build of it")
    return library


@pytest.fixture
def requested(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options of every session's TensorRT provider, on a machine that seems to have all that it needs."""
    options: list[Options] = []

    def session(graph: Any, **given: Any) -> OnnxRuntimeBackend:
        (name, first), *_ = given["providers"]
        assert name == "TensorrtExecutionProvider"
        options.append(first)
        return OnnxRuntimeBackend(graph, **(given | {"providers": [("CPUExecutionProvider", {})]}))

    monkeypatch.setattr(onnxruntime_gpu, "OnnxRuntimeBackend", session)
    monkeypatch.setattr(onnxruntime_gpu, "_require", lambda *_: Gpu(fake_gpu.NAME, "9.0", (13, 0)))
    monkeypatch.setattr(onnxruntime_gpu, "native_path", lambda *_: plugin.with_name("libvmoe_tensorrt_register.so"))
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("VMOE_MAX_BATCH", raising=False)
    return options


def shapes(options: Options) -> list[str]:
    return [options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]


def test_the_engine_is_built_for_all_batches_up_to_the_largest(
    bundle: Path, requested: list[Options], mnist_images: Images
) -> None:
    images = mnist_images["images"][:33]
    with Engine.load(bundle, backend="ort-tensorrt") as engine, Engine.load(bundle, backend="onnxruntime") as cpu:
        assert engine.backend_description.endswith(f" TensorRT on {fake_gpu.NAME}, vmoe plugin, batches of 1 to 32")
        np.testing.assert_allclose(engine(images[:32]), cpu(images[:32]), rtol=0, atol=1e-4)
        with pytest.raises(ImageError) as refused:
            engine(images)
    assert shapes(requested[0]) == ["image:1x28x28x1", "image:32x28x28x1", "image:32x28x28x1"]
    assert_one_sentence(str(refused.value), "built for 1 to 32 images, and the batch has 33", "VMOE_MAX_BATCH=33")


@pytest.mark.parametrize(("value", "largest"), [(None, 24), ("1", 12), ("40", 36), ("60", 60)])
def test_the_largest_batch_can_be_value_and_is_of_whole_groups(
    grouped: Path, requested: list[Options], monkeypatch: pytest.MonkeyPatch, value: str | None, largest: int
) -> None:
    if value is not None:
        monkeypatch.setenv("VMOE_MAX_BATCH", value)
    Engine.load(grouped, backend="ort-tensorrt").close()
    assert shapes(requested[0]) == ["image:12x28x28x1", f"image:{largest}x28x28x1", f"image:{largest}x28x28x1"]


@pytest.mark.parametrize("value", ["", "0", "-1", "65537", "1" * 99, "٣"])
def test_what_is_no_number_of_images_is_refused(
    bundle: Path, requested: list[Options], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VMOE_MAX_BATCH", value)
    with pytest.raises(BackendError) as refused:
        Engine.load(bundle, backend="ort-tensorrt")
    assert_one_sentence(str(refused.value), "VMOE_MAX_BATCH must be a whole number from 1 to 65536")


def test_engines_of_other_plugins_and_other_batches_are_not_found(
    bundle: Path, requested: list[Options], plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> str:
        Engine.load(bundle, backend="ort-tensorrt").close()
        assert requested[-1]["trt_engine_cache_path"] == requested[-1]["trt_timing_cache_path"]
        return requested[-1]["trt_engine_cache_path"]

    first = load()
    assert load() == first
    plugin.write_bytes(b"another build of it")
    second = load()
    monkeypatch.setenv("VMOE_MAX_BATCH", "16")
    assert len({first, second, load()}) == 3


def test_a_gpu_that_the_plugin_has_no_code_for_is_refused(
    bundle: Path, requested: list[Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    along_with_it = fake_gpu.op_library(tmp_path, "100-real", 13000)
    monkeypatch.setattr(cuda_library, "find_native", lambda *_: along_with_it)
    opened = Bundle.open(bundle)
    found = availability("ort-tensorrt", opened, opened.manifest.rules.named("c0.3-k1"))  # type: ignore[union-attr]
    says = f"TensorRT plugin was compiled for the architectures 100-real, and {fake_gpu.NAME} has compute capability 9.0"
    assert_one_sentence(str(found.error), says)


def test_engines_of_other_batches_are_not_shared(
    bundle: Path, requested: list[Options], monkeypatch: pytest.MonkeyPatch, mnist_images: Images
) -> None:
    with Engine.load(bundle, backend="ort-tensorrt") as engine, Engine.load(bundle, backend="ort-tensorrt"):
        assert len(requested) == 1
        monkeypatch.setenv("VMOE_MAX_BATCH", "40")
        with Engine.load(bundle, backend="ort-tensorrt") as larger:
            assert len(larger(mnist_images["images"][:33])) == 33
        with pytest.raises(ImageError):
            engine(mnist_images["images"][:33])
    assert [shapes(options)[2] for options in requested] == ["image:32x28x28x1", "image:40x28x28x1"]
