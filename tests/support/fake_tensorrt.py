"""A stand-in for `backends.tensorrt.tensorrt_api`, and for nothing else: ONNX Runtime's CPU instead of TensorRT.

Its engine is a note of which graph to run, and it runs that graph. So it shows what the cache, the backend and `vmoe-build`
do with engines and answers, and nothing about TensorRT.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle.reader import BundleGraph
from vmoe_runtime.errors import BackendError

Array = np.ndarray


class FakeTensorRt(ModuleType):
    """The module, with what a test may turn.

    Attributes:
        tensorrt: the version that it says it is.
        card: the GPU that it says there is; an exception is raised instead.
        error: what is added to each output, or None where building fails.
        wrong_batch: the only size of calls whose outputs are wrong, by one.
        repeats: every so many images of a call have the outputs of the first so many.
        built: the options of every build.
        lanes: how many lanes were made.
        most_at_once: the most calls that ran at the same time.
    """

    INPUT = "image"

    def __init__(self) -> None:
        super().__init__("vmoe_runtime.backends.tensorrt.tensorrt_api")
        self.tensorrt = "10.13.0.35"
        self.card: Gpu | Exception = Gpu("NVIDIA H100 80GB HBM3", "9.0", (13, 0))
        self.error: float | None = 0.0
        self.wrong_batch: int | None = None
        self.repeats: int | None = None
        self.built: list[dict[str, Any]] = []
        self.lanes = self.running = self.most_at_once = 0
        self.lock = threading.Lock()

    def version(self) -> str:
        return self.tensorrt

    def gpu(self) -> Gpu:
        if isinstance(self.card, Exception):
            raise self.card
        return self.card

    @staticmethod
    def BuildOptions(**options: Any) -> dict[str, Any]:
        return options

    def build_engine(
        self, graph: BundleGraph, plugin: Path, options: dict[str, Any], say: Callable[[str], None] | None
    ) -> tuple[bytes, bytes]:
        if self.error is None:
            raise BackendError(f"TensorRT can't build an engine from {graph.path}: it is a fake that fails")
        if say is not None:
            say("a line that TensorRT logs")
        self.built.append(options | {"plugin": plugin})
        engine = {"graph": str(graph.path), "error": self.error, "largest": options["shapes"][2]}
        return json.dumps(engine).encode(), options["timing_cache"] + b"measured;"

    def LoadedEngine(self, engine: bytes, plugin: Path | None) -> FakeEngine:
        return FakeEngine(self, json.loads(engine), plugin)


class FakeEngine:
    def __init__(self, module: FakeTensorRt, engine: dict[str, Any], plugin: Path | None) -> None:
        self.module, self.engine, self.plugin = module, engine, plugin
        graph = onnx.load(engine["graph"], load_external_data=False).graph
        self.dtypes = {
            port.name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type))
            for port in (*graph.input, *graph.output)
        }

    def new_lane(self) -> FakeLane:
        self.module.lanes += 1
        return FakeLane(self)


class FakeLane:
    def __init__(self, loaded: FakeEngine) -> None:
        self.module, self.error = loaded.module, loaded.engine["error"]
        self.session = OnnxRuntimeBackend(Path(loaded.engine["graph"]), threads=1)
        self.busy = threading.Lock()

    def run(self, image: Array, outputs: Sequence[str]) -> list[Array]:
        if not self.busy.acquire(blocking=False):
            raise AssertionError("two calls on one execution context")
        with self.module.lock:
            self.module.running += 1
            self.module.most_at_once = max(self.module.most_at_once, self.module.running)
        try:
            error = self.error + (len(image) == self.module.wrong_batch)
            if self.module.repeats is not None:
                image = np.resize(image[: self.module.repeats], image.shape)
            results = self.session.run({"image": image}, outputs)
            return [result + np.float32(error) if result.dtype == np.float32 else result for result in results]
        finally:
            with self.module.lock:
                self.module.running -= 1
            self.busy.release()
