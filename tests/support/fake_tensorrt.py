"""Fakes of those parts of `tensorrt` and `cuda.bindings.runtime` that the product uses, for tests without a GPU.

A fake engine stores the name of the graph from which it was built, and runs that graph in ONNX Runtime on the CPU. Host
memory serves as GPU memory. Work on a stream is delayed until the stream is synchronized. A real GPU may delay work too.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import sys
from collections.abc import Callable
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from plain_graph import plain_graph

from vmoe_runtime.backends import nvidia_gpu
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

_PRODUCT = (
    "vmoe_runtime.backends.tensorrt.tensorrt_api",
    "vmoe_runtime.backends.tensorrt.tensorrt_engine",
    "vmoe_tools.build.tensorrt_builder",
    "vmoe_tools.build.build",
)


class _CopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class _Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class FakeCuda(ModuleType):
    """A fake of CUDA's runtime.

    Attributes:
        device, pinned: the allocated buffers of device memory and of pinned host memory, by address.
        refuses: name of the allocation function that must fail for lack of memory; empty if no function must fail.
    """

    cudaMemcpyKind, cudaError_t, cudaStreamNonBlocking = _CopyKind, _Error, 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], object]]] = {}
        self.refuses = ""

    def _allocate(self, where: dict[int, Any], size: int, name: str) -> tuple[Any, ...]:
        if self.refuses == name:
            return _Error.cudaErrorMemoryAllocation, 0
        buffer = (ctypes.c_char * size).from_buffer(bytearray(b"\xaa" * size))
        where[ctypes.addressof(buffer)] = buffer
        return _Error.cudaSuccess, ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.device, size, "cudaMalloc")

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.pinned, size, "cudaMallocHost")

    def _free(self, where: str, address: int) -> tuple[Any, ...]:
        del getattr(self, where)[address]
        return (_Error.cudaSuccess,)

    cudaFree, cudaFreeHost = partialmethod(_free, "device"), partialmethod(_free, "pinned")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        stream = len(self.queues) + 1
        self.queues[stream] = []
        return _Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.queues[stream] = []
        return (_Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: _CopyKind, stream: int) -> tuple[Any, ...]:
        device, host = (to, of) if kind is _CopyKind.cudaMemcpyHostToDevice else (of, to)
        assert size <= min(len(self.device[device]), len(self.pinned[host]))
        self.queues[stream].append(lambda: ctypes.memmove(to, of, size))
        return (_Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        while self.queues[stream]:
            self.queues[stream].pop(0)()
        return (_Error.cudaSuccess,)

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return _Error.cudaSuccess, 0

    def cudaSetDevice(self, _: int) -> tuple[Any, ...]:
        return (_Error.cudaSuccess,)

    def cudaGetErrorString(self, code: _Error) -> tuple[Any, ...]:
        return _Error.cudaSuccess, code.name.encode()


class FakeTensorRt(ModuleType):
    """A fake of TensorRT, with settings for tests.

    Attributes:
        cuda: the fake of CUDA's runtime.
        gpu: the GPU that the driver reports, or an exception that is raised instead of a report.
        error: a number that is added to each float output of every engine built from now on. If it is None, building fails.
        wrong_batch: a batch size for which outputs are wrong, because 1 is added to them; None if all outputs are right.
        built: the options of each build so far.
        contexts: number of execution contexts made so far.
    """

    class ILogger:
        Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", ["STRONGLY_TYPED"])
    BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
    MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.__version__ = "10.13.0.35"
        self.cuda = FakeCuda()
        self.gpu: Gpu | Exception = Gpu("NVIDIA H100 80GB HBM3", "9.0", (13, 0))
        self.error: float | None = 0.0
        self.wrong_batch: int | None = None
        self.built: list[dict[str, Any]] = []
        self.contexts = 0

    def find_gpu(self) -> Gpu:
        if isinstance(self.gpu, Exception):
            raise self.gpu
        return self.gpu

    def Builder(self, log: Any) -> _Builder:
        return _Builder(self, log)

    def OnnxParser(self, network: SimpleNamespace, _: Any) -> SimpleNamespace:
        def parse(data: bytes, path: str) -> bool:
            network.graph = os.path.realpath(path)
            return data == Path(path).read_bytes()

        return SimpleNamespace(parse=parse, num_errors=0)

    def Runtime(self, _: Any) -> SimpleNamespace:
        registry = _registry()
        return SimpleNamespace(
            get_plugin_registry=lambda: registry, deserialize_cuda_engine=lambda engine: _Engine(self, json.loads(engine))
        )


def _registry() -> SimpleNamespace:
    return SimpleNamespace(load_library=lambda path: path, get_creator=lambda *_: None)


class _Builder:
    def __init__(self, module: FakeTensorRt, log: Any) -> None:
        self.module, self.log = module, log
        self.get_plugin_registry = _registry
        self.create_network = lambda flags: SimpleNamespace(flags=flags)

    def create_builder_config(self) -> SimpleNamespace:
        config = SimpleNamespace(workspace=None, plugins_to_serialize=[], cache=b"", cleared=[])
        config.clear_flag = config.cleared.append
        config.set_memory_pool_limit = lambda _, size: setattr(config, "workspace", size)
        config.create_timing_cache = lambda content: content
        config.set_timing_cache = lambda content, _: setattr(config, "cache", content)
        config.get_timing_cache = lambda: SimpleNamespace(serialize=lambda: config.cache + b"measured;")
        config.add_optimization_profile = lambda profile: setattr(config, "shapes", profile.shapes)
        return config

    def create_optimization_profile(self) -> SimpleNamespace:
        profile = SimpleNamespace()
        profile.set_shape = lambda _, *shapes: setattr(profile, "shapes", shapes)
        return profile

    def build_serialized_network(self, network: SimpleNamespace, config: SimpleNamespace) -> bytes | None:
        severity = self.module.ILogger.Severity
        assert (network.flags, config.cleared) == (2, [self.module.BuilderFlag.TF32])
        if self.module.error is None:
            self.log.log(severity.ERROR, "it is a fake\nthat fails")
            return None
        self.log.log(severity.INFO, "a line that TensorRT logs")
        self.module.built.append(
            {name: getattr(config, name) for name in ("shapes", "workspace", "plugins_to_serialize", "cache")}
        )
        engine = {"graph": network.graph, "error": self.module.error, "largest": config.shapes[2]}
        return json.dumps(engine).encode()


class _Engine:
    def __init__(self, module: FakeTensorRt, engine: dict[str, Any]) -> None:
        self.module, self.error, self.largest = module, engine["error"], engine["largest"]
        graph = onnx.load(engine["graph"], load_external_data=False).graph
        self.types = {port.name: port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)}
        self.outputs = [port.name for port in graph.output]
        self.num_io_tensors = len(self.types)
        self.session = OnnxRuntimeBackend(plain_graph(Path(engine["graph"])), threads=1)

    def get_tensor_name(self, index: int) -> str:
        return list(self.types)[index]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=onnx.TensorProto.DataType.Name(self.types[name]))

    def get_tensor_profile_shape(self, _: str, __: int) -> list[Any]:
        return [None, None, self.largest]

    def create_execution_context(self) -> _Context:
        self.module.contexts += 1
        return _Context(self)

    def compute(self, image: np.ndarray) -> list[np.ndarray]:
        error = np.float32(self.error + (len(image) == self.module.wrong_batch))
        results = self.session.run({"image": image}, self.outputs)
        return [result + error if result.dtype == np.float32 else result for result in results]

    def output_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.types["image"])
        results = self.session.run({"image": np.zeros(shape, dtype)}, self.outputs)
        return {name: result.shape for name, result in zip(self.outputs, results, strict=True)} | {"image": shape}


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.address, self.busy = engine, dict[str, int](), False

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> bool:
        assert not self.busy, "two calls on one execution context"
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.output_shapes(self.shape)[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.busy = True
        self.engine.module.cuda.queues[stream].append(self._execute)
        return True

    def _execute(self) -> None:
        module = self.engine.module
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.engine.types["image"]))
        image = np.frombuffer(module.cuda.device[self.address["image"]], dtype, int(np.prod(self.shape)))
        for name, result in zip(self.engine.outputs, self.engine.compute(image.reshape(self.shape)), strict=True):
            buffer = module.cuda.device[self.address[name]]
            assert result.nbytes <= len(buffer)
            ctypes.memmove(buffer, np.ascontiguousarray(result).ctypes.data, result.nbytes)
        self.busy = False


def install(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """For one test, replace `tensorrt` and CUDA's runtime with the fakes.

    The driver then reports the GPU that the fake specifies.
    """
    fake = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["cuda.bindings"].runtime = fake.cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake.cuda)
    monkeypatch.setattr(nvidia_gpu, "find_gpu", fake.find_gpu)
    for name in _PRODUCT:  # import these modules again so that they use the fakes, and remove them after the test
        package, _, attribute = name.rpartition(".")
        owner = import_module(package)
        monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setattr(owner, attribute, fake, raising=False)
        del sys.modules[name]
        delattr(owner, attribute)
    for name in _PRODUCT:
        import_module(name)
    return fake
