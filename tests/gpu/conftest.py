"""Fixtures for the tests of GPU backends: the bundles that most tests use, and replacements for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gpu_emulator import build_emulator
from on_gpu.emulator import Emulator

from vmoe_export import export_bundle
from vmoe_runtime.backends import onnxruntime_cuda
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.tensorrt import onnxruntime_provider


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Export the MNIST model at two profiles, with graphs for TensorRT. Each image is routed separately."""
    target = tmp_path_factory.mktemp("tensorrt") / "own.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3, 1.05], k=[1], tensorrt=True, validate=False)
    return target


@pytest.fixture(scope="session")
def grouped(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Export the MNIST model with groups of 12 images."""
    target = tmp_path_factory.mktemp("tensorrt") / "grouped.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.3], k=[1], group="12", tensorrt=True, validate=False)
    return target


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """Return an emulated GPU with the kernels. If nvcc is missing, skip the test."""
    return Emulator(build_emulator())


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Make ONNX Runtime's GPU backends run on the CPU.

    Return a list, to which each backend adds the options that it requested.
    """
    asked: list[dict[str, Any]] = []

    def session(graph: Any, **options: Any) -> OnnxRuntimeBackend:
        asked.append(options)
        return OnnxRuntimeBackend(graph, **(options | {"providers": [("CPUExecutionProvider", {})]}))

    monkeypatch.setattr(onnxruntime_cuda, "OnnxRuntimeBackend", session)
    monkeypatch.setattr(onnxruntime_provider, "OnnxRuntimeBackend", session)
    return asked


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for built engines. It doesn't exist yet."""
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
