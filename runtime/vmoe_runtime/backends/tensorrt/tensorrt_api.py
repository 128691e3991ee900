"""The parts of TensorRT's Python package and of CUDA's runtime that are needed to load and run an engine.

The code was written from the documentation of `cuda.bindings.runtime` and of TensorRT 10.13 and 11. Both TensorRT versions
have the same API for the parts used here. This code has never been run on a GPU.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorrt
from cuda.bindings import runtime as cuda

from vmoe_runtime.errors import BackendError
from vmoe_runtime.installation import oldest_supported, too_old

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Made = TypeVar("Made")

INPUT = "image"
_DEVICE = 0  # as CUDA_VISIBLE_DEVICES numbers them
_PLUGIN = ("VmoeRouteDispatch", "1", "vmoe")  # name, version and namespace of one plugin creator in the plugin library
_DTYPES: Mapping[str, type[np.generic]] = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}


class _Log(tensorrt.ILogger):  # type: ignore[misc]
    """TensorRT's logger for the whole process; TensorRT allows only one.

    The logger keeps the latest errors. If there is a listener, the logger passes messages on to it.
    """

    def __init__(self) -> None:
        tensorrt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=8)
        self.listener: Callable[[str], None] | None = None

    def log(self, severity: Any, msg: str) -> None:
        """Handle a message. TensorRT may call this method from any thread."""
        if severity <= tensorrt.ILogger.Severity.ERROR:
            self.errors.append(msg)
        if self.listener is not None and severity <= tensorrt.ILogger.Severity.INFO:
            self.listener(msg)

    def reason(self) -> str:
        """Return the latest error on one line."""
        return " ".join(self.errors[-1].split())[:400] if self.errors else "it doesn't say why"


log = _Log()


def version() -> str:
    """Return the full version of TensorRT, such as "10.13.0.35"."""
    return str(tensorrt.__version__)


def start(kind: Callable[[Any], Made]) -> Made:
    """Create a TensorRT builder or runtime by calling `kind` with the logger.

    Raises:
        BackendError: TensorRT is too old, or can't start.
    """
    if too_old("tensorrt", version()):
        raise BackendError(f"TensorRT {version()} is too old; run pip install 'tensorrt>={oldest_supported('tensorrt')}'")
    log.errors.clear()
    try:
        return kind(log)
    except TypeError:  # TensorRT's Python package raises TypeError if TensorRT returns a null pointer
        raise BackendError(f"TensorRT {version()} can't start: {log.reason()}") from None


def load_plugin(registry: Any, plugin: Path) -> None:
    """Register the plugin library in the registry of a builder or a runtime.

    Raises:
        BackendError: TensorRT can't load the library.
    """
    # If the plugin is already registered for the whole process, the registry refuses the library but finds the plugin's
    # creator. The plugin can then be used.
    if registry.load_library(str(plugin)) is None and registry.get_creator(*_PLUGIN) is None:
        raise BackendError(f"TensorRT {version()} can't load the plugin {plugin}: {log.reason()}")


class LoadedEngine:
    """An engine in the GPU's memory.

    Args:
        engine: the engine's bytes, as TensorRT serialised them.
        plugin: the plugin library; None if the engine contains the plugin library or needs none.
        plugin_inside: whether the engine contains the plugin library.

    Raises:
        BackendError: TensorRT can't load the engine or the plugin.
    """

    def __init__(self, engine: bytes, plugin: Path | None, plugin_inside: bool) -> None:
        with _on_device():
            self._runtime = start(tensorrt.Runtime)
            self._runtime.engine_host_code_allowed = plugin_inside
            if plugin is not None:
                load_plugin(self._runtime.get_plugin_registry(), plugin)
            self.engine = self._runtime.deserialize_cuda_engine(engine)
        if self.engine is None:
            raise BackendError(f"TensorRT can't load the engine: {log.reason()}")
        self.names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.dtypes = {name: np.dtype(_DTYPES[self.engine.get_tensor_dtype(name).name]) for name in self.names}


class Lane:
    """An execution context with a stream and with memory for the largest batch. It runs one call at a time.

    Its memory on the host is pinned. A copy from pinned memory to the device runs at the full rate of the bus, and can run
    while a call in another lane computes. A copy from pageable memory has neither advantage.

    Raises:
        BackendError: the GPU has too little memory, or TensorRT or CUDA failed.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        with _on_device():
            self._context = loaded.engine.create_execution_context()
            if self._context is None:
                raise BackendError(f"TensorRT can't make an execution context: {log.reason()}")
            memory: list[tuple[Callable[..., Any], Any]] = []
            self._stream = _call(cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking)
            weakref.finalize(self, _free, self._stream, memory)
            self._set_shape(tuple(loaded.engine.get_tensor_profile_shape(INPUT, 0)[2]))
            self._address: dict[str, Any] = {}
            self._pinned: dict[str, Array] = {}
            for name in loaded.names:
                size = max(int(np.prod(self._shape(name), dtype=np.int64)) * loaded.dtypes[name].itemsize, 1)
                pointer = _call(cuda.cudaMalloc, size)
                memory.append((cuda.cudaFree, pointer))
                self._address[name] = pointer
                self._context.set_tensor_address(name, int(pointer))
                pinned = _call(cuda.cudaMallocHost, size)
                memory.append((cuda.cudaFreeHost, pinned))
                self._pinned[name] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pinned)))

    def run(self, image: Array, outputs: Sequence[str]) -> list[Array]:
        """Run the engine on a batch and return the arrays of `outputs`.

        Raises:
            BackendError: TensorRT or CUDA failed.
        """
        to_device, to_host = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with _on_device():
            self._set_shape(image.shape)
            pinned = self._on_host(INPUT, image.shape)
            np.copyto(pinned, image)
            _call(cuda.cudaMemcpyAsync, self._address[INPUT], pinned.ctypes.data, pinned.nbytes, to_device, self._stream)
            if not self._context.execute_async_v3(int(self._stream)):
                raise BackendError(f"TensorRT failed: {log.reason()}")
            results = {name: self._on_host(name, self._shape(name)) for name in outputs}
            for name, result in results.items():
                _call(cuda.cudaMemcpyAsync, result.ctypes.data, self._address[name], result.nbytes, to_host, self._stream)
            _call(cuda.cudaStreamSynchronize, self._stream)
        return [results[name].copy() for name in outputs]

    def _on_host(self, name: str, shape: Shape) -> Array:
        """Return the pinned memory of the input or output `name`, as an array of shape `shape`."""
        dtype = self._loaded.dtypes[name]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        array: Array = self._pinned[name][:size].view(dtype).reshape(shape)
        return array

    def _set_shape(self, shape: Shape) -> None:
        if not self._context.set_input_shape(INPUT, shape):
            raise BackendError(f"TensorRT failed: the engine doesn't take images of shape {shape}: {log.reason()}")

    def _shape(self, name: str) -> Shape:
        return tuple(self._context.get_tensor_shape(name))


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a function of CUDA's runtime and return its result without the error code.

    Raises:
        BackendError: the function failed.
    """
    code, *values = function(*arguments)
    if code != cuda.cudaError_t.cudaSuccess:
        _, text = cuda.cudaGetErrorString(code)
        raise BackendError(f"CUDA failed: {text.decode(errors='replace')} ({code.name} of {function.__name__})")
    return values[0] if values else None


def _free(stream: Any, memory: Sequence[tuple[Callable[..., Any], Any]]) -> None:
    for free, pointer in memory:
        free(pointer)
    cuda.cudaStreamDestroy(stream)


@contextmanager
def _on_device() -> Iterator[None]:
    """Select the engine's device for the `with` block. After the block, select the thread's previous device again."""
    before = _call(cuda.cudaGetDevice)
    _call(cuda.cudaSetDevice, _DEVICE)
    try:
        yield
    finally:
        cuda.cudaSetDevice(before)
