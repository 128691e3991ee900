"""Check the options that the backend `ort-tensorrt` passes to ONNX Runtime's TensorRT provider.

The tests run the graphs on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_gpu
import golden
import numpy as np
import pytest
from damaged_files import refusal

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine, ImageError
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.backends.tensorrt import onnxruntime_provider

Images = dict[str, np.ndarray]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    library = tmp_path / "libvmoe_tensorrt.so"
    library.write_bytes(b"a build of it")
    return library


@pytest.fixture
def requested(cache: Path, plugin: Path, on_cpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make this machine seem to meet all requirements.

    Return a list, to which each loaded graph adds its options.
    """
    monkeypatch.setattr(onnxruntime_provider, "require_provider", lambda *_: Gpu(fake_gpu.NAME, "9.0", (13, 0)))
    monkeypatch.setattr(onnxruntime_provider, "native_path", lambda *_: plugin.with_name("libvmoe_tensorrt_register.so"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("VMOE_MAX_BATCH", raising=False)
    return on_cpu


def provider_options(asked: dict[str, Any]) -> dict[str, str]:
    """Return the TensorRT provider's options from the recorded options of a graph."""
    (name, options), *_ = asked["providers"]
    assert name == "TensorrtExecutionProvider"
    return options


def shapes(asked: dict[str, Any]) -> list[str]:
    options = provider_options(asked)
    return [options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]


def test_the_engine_is_built_for_all_batches_up_to_the_largest(
    bundle: Path, requested: list[Any], mnist_images: Images
) -> None:
    images = mnist_images["images"][:33]
    with Engine.load(bundle, backend="ort-tensorrt") as engine, Engine.load(bundle, backend="onnxruntime") as cpu:
        assert engine.backend_description.endswith(f" TensorRT on {fake_gpu.NAME}, vmoe plugin, batches of 1 to 32")
        np.testing.assert_allclose(engine(images[:32]), cpu(images[:32]), rtol=0, atol=1e-4)
        with refusal(ImageError, "built for 1 to 32 images, and the batch has 33", "VMOE_MAX_BATCH=33"):
            engine(images)
    assert shapes(requested[0]) == ["image:1x28x28x1", "image:32x28x28x1", "image:32x28x28x1"]


def test_a_dense_model_needs_no_plugin(tmp_path: Path, requested: list[Any], plugin: Path) -> None:
    plugin.unlink()
    export_bundle(golden.FOLDER / "g4", tmp_path / "dense.vmoe", tensorrt=True, validate=False)
    with Engine.load(tmp_path / "dense.vmoe", backend="ort-tensorrt") as engine:
        assert engine.backend_description.endswith(f" TensorRT on {fake_gpu.NAME}, batches of 1 to 32")
    assert "trt_extra_plugin_lib_paths" not in provider_options(requested[0])


@pytest.mark.parametrize(("value", "largest"), [(None, 24), ("1", 12), ("40", 36), ("60", 60)])
def test_the_largest_batch_can_be_value_and_is_of_whole_groups(
    grouped: Path, requested: list[Any], monkeypatch: pytest.MonkeyPatch, value: str | None, largest: int
) -> None:
    if value is not None:
        monkeypatch.setenv("VMOE_MAX_BATCH", value)
    Engine.load(grouped, backend="ort-tensorrt").close()
    assert shapes(requested[0]) == ["image:12x28x28x1", f"image:{largest}x28x28x1", f"image:{largest}x28x28x1"]


@pytest.mark.parametrize("value", ["", "0", "-1", "65537", "1" * 99, "٣"])
def test_what_is_no_number_of_images_is_refused(
    bundle: Path, requested: list[Any], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VMOE_MAX_BATCH", value)
    with refusal(BackendError, "VMOE_MAX_BATCH must be a whole number from 1 to 65536"):
        Engine.load(bundle, backend="ort-tensorrt")


def test_engines_of_other_plugins_and_other_batches_are_not_found(
    bundle: Path, requested: list[Any], plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> str:
        Engine.load(bundle, backend="ort-tensorrt").close()
        options = provider_options(requested[-1])
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
        return options["trt_engine_cache_path"]

    first = load()
    assert load() == first
    plugin.write_bytes(b"another build of it")
    second = load()
    monkeypatch.setenv("VMOE_MAX_BATCH", "16")
    assert len({first, second, load()}) == 3
