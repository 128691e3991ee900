"""Fixtures that test modules and docstring examples share, such as the MNIST checkpoint and its bundles."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import coverage_measurement  # before the product
import numpy as np
import onnxruntime
import pytest

from vmoe_runtime import Engine

MNIST = Path(__file__).parent / "samples" / "mnist"

pytest_plugins = ["crash_scheduling", "sampled_grids", "command_runs", "sdk_build"]

# These programs run in the environment of Triton's client.
collect_ignore = [f"tests/support/{name}.py" for name in ("protocol_clients", "triton_client", "triton_config_check")]


class _FailuresAtOnce:
    """Print the message of each failure when it happens, because an interrupted run prints no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(crash.message if crash else report.longrepr).strip().splitlines()
            reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
            reporter.ensure_newline()
            reporter.write_line(f"{report.when} of {report.nodeid}: {message[0] if message else ''}")


class _SharedCpus(onnxruntime.SessionOptions):
    """Session options whose default is one thread, and whose further threads sleep while they wait for work."""

    def __init__(self) -> None:
        super().__init__()
        self.intra_op_num_threads = 1
        self.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _keep_compiled_models(folder: Path) -> None:
    """Make OpenVINO cache the models that it compiles; reading a model again takes a quarter of the time."""
    try:
        import openvino
    except ImportError:
        return

    class KeptModels(openvino.Core):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.set_property({"CACHE_DIR": str(folder)})

    openvino.Core = KeptModels


def pytest_configure(config: pytest.Config) -> None:
    """Limit ONNX Runtime to one thread if OMP_NUM_THREADS is 1, because it ignores this variable.

    In the main process, also register the plugin that reports failures at once.
    """
    if os.environ.get("OMP_NUM_THREADS") == "1":
        onnxruntime.SessionOptions = _SharedCpus
        # Each process has a folder of its own, so that no process reads a file that another process is still writing.
        _keep_compiled_models(Path(__file__).parent / "build" / "openvino" / os.environ.get("PYTEST_XDIST_WORKER", "one"))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FailuresAtOnce(config))


def pytest_collection_finish() -> None:
    """Exempt the collected tests and the imported modules from garbage collection, which would scan them again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Write the coverage of this process."""
    coverage_measurement.write()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the long modules, so that no process waits for the last of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="module", autouse=True)
def _caches_end_with_their_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clear the caches of a module after its tests; all sessions and answers together would need gigabytes."""
    yield
    for name, owner in list(sys.modules.items()):
        if name in (request.module.__name__, "cpu_paths", "golden", "op_models"):
            for value in list(vars(owner).values()):
                if getattr(value, "__module__", "") == name and hasattr(value, "cache_clear"):
                    value.cache_clear()


@pytest.fixture(autouse=True)
def _names_for_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Define names for docstring examples: `bundle`, `images` (uint8[16,28,28]) and `folder`, which is empty."""
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace["bundle"] = request.getfixturevalue("mnist_bundle")
        doctest_namespace["images"] = request.getfixturevalue("mnist_images")["images"][:16]
        doctest_namespace["folder"] = request.getfixturevalue("tmp_path")


@pytest.fixture(scope="session")
def mnist_checkpoint() -> Path:
    """The trained checkpoint: 5 blocks, all MoE, 8 experts, one channel, 28 px."""
    return MNIST / "vmoe_mnist"


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """The sample that writes checkpoints of standard sizes, as a module."""
    spec = importlib.util.spec_from_file_location("random_checkpoint", MNIST.parent / "random_checkpoint.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def mnist_data() -> Path:
    """The test images and labels as .npz: `images` uint8[1536,28,28], `labels` uint8[1536]."""
    return MNIST / "test_data.npz"


@pytest.fixture(scope="session")
def mnist_images(mnist_data: Path) -> dict[str, np.ndarray]:
    """`images` uint8[1536,28,28] and `labels` uint8[1536]."""
    with np.load(mnist_data) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="session")
def mnist_bundle(mnist_checkpoint: Path) -> Path:
    """The MNIST model with routing groups of 16 images, like its official numbers."""
    from shared_exports import shared_export

    capacity, config = [0.1, 0.2, 0.3, 0.5, 1.05, 2.0], MNIST / "config.json"
    return shared_export("mnist", mnist_checkpoint, capacity=capacity, k=[1, 2], group="16", config=config)


@pytest.fixture(scope="session")
def mnist_image_bundle(mnist_checkpoint: Path) -> Path:
    """The MNIST model with every image routed alone, exported with the defaults."""
    from shared_exports import shared_export

    return shared_export("mnist_image", mnist_checkpoint, capacity=[0.3, 1.05], k=[1, 2])


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    """An engine of `mnist_image_bundle` on one thread."""
    with Engine.load(mnist_image_bundle, backend="onnxruntime", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def mnist_digits(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """70 labelled digits: four groups of 16, and six images left over."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=mnist_images["images"][:70], labels=mnist_images["labels"][:70])
    return path
