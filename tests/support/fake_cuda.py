"""Stand-ins for `tensorrt` and `cuda.bindings.runtime`, for what a loaded engine asks of them, and for nothing else.

The GPU's memory is the host's. What is put on a stream happens when the stream is waited for, and not before, as on a GPU
it may. The engine's one output is the sum over each image.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

SIDE = 4


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class FakeCuda(ModuleType):
    """CUDA's runtime.

    Attributes:
        device, pinned: sizes of what is allocated there, by address.
        copies: of each copy its direction, its bytes, and whether the host's side of it is in pinned memory.
        refuses: the name of a function that has no memory left.
    """

    cudaMemcpyKind = Kind
    cudaError_t = Error
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.device: dict[int, int] = {}
        self.pinned: dict[int, int] = {}
        self.kept: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], object]]] = {}
        self.copies: list[tuple[str, int, bool]] = []
        self.refuses = ""

    def _allocate(self, where: dict[int, int], size: int, name: str) -> tuple[Any, ...]:
        if self.refuses == name:
            return Error.cudaErrorMemoryAllocation, 0
        buffer = (ctypes.c_char * size)()
        address = ctypes.addressof(buffer)
        ctypes.memset(address, 0xAA, size)
        where[address], self.kept[address] = size, buffer
        return Error.cudaSuccess, address

    def _release(self, where: dict[int, int], address: int) -> tuple[Any, ...]:
        del where[address], self.kept[address]
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.device, size, "cudaMalloc")

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.pinned, size, "cudaMallocHost")

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._release(self.device, address)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._release(self.pinned, address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        stream = len(self.queues) + 1
        self.queues[stream] = []
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.queues[stream] = []
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Kind, stream: int) -> tuple[Any, ...]:
        device, host = (to, of) if kind is Kind.cudaMemcpyHostToDevice else (of, to)
        assert any(start <= device and device + size <= start + held for start, held in self.device.items())
        pinned = any(start <= host and host + size <= start + held for start, held in self.pinned.items())
        self.copies.append((kind.name, size, pinned))
        self.queues[stream].append(lambda: ctypes.memmove(to, of, size))
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        while self.queues[stream]:
            self.queues[stream].pop(0)()
        return (Error.cudaSuccess,)

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, 0

    def cudaSetDevice(self, _: int) -> tuple[Any, ...]:
        return (Error.cudaSuccess,)

    def cudaGetErrorString(self, code: Error) -> tuple[Any, ...]:
        return Error.cudaSuccess, code.name.encode()


class FakeContext:
    """An execution context."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.address, self.images = cuda, dict[str, int](), 0

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> bool:
        self.images = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.images, SIDE, SIDE, 1) if name == "image" else (self.images, 1)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        images = self.images
        self.cuda.queues[stream].append(lambda: self._compute(images))
        return True

    def _compute(self, images: int) -> None:
        def floats(name: str, count: int) -> np.ndarray:
            return np.frombuffer((ctypes.c_float * count).from_address(self.address[name]), np.float32)

        given = floats("image", images * SIDE * SIDE).reshape(images, -1)
        floats("logits", images)[...] = given.sum(axis=1)


def install(monkeypatch: pytest.MonkeyPatch, largest: int) -> FakeCuda:
    """Puts both modules where imports find them; engines take up to `largest` images."""
    cuda = FakeCuda()
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: ("image", "logits")[index],
        get_tensor_mode=lambda name: "input" if name == "image" else "output",
        get_tensor_dtype=lambda _: SimpleNamespace(name="FLOAT"),
        get_tensor_profile_shape=lambda _name, _profile: [(1, SIDE, SIDE, 1), (1, SIDE, SIDE, 1), (largest, SIDE, SIDE, 1)],
        create_execution_context=lambda: FakeContext(cuda),
    )
    runtime = SimpleNamespace(engine_host_code_allowed=False, deserialize_cuda_engine=lambda _: engine)
    tensorrt = ModuleType("tensorrt")
    vars(tensorrt).update(
        ILogger=type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INFO=3)}),
        Runtime=lambda _: runtime,
        TensorIOMode=SimpleNamespace(OUTPUT="output"),
    )
    bindings = ModuleType("cuda.bindings")
    vars(bindings)["runtime"] = cuda
    modules = {"tensorrt": tensorrt, "cuda": ModuleType("cuda"), "cuda.bindings": bindings, cuda.__name__: cuda}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return cuda
