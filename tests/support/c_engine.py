"""The C++ SDK, called through its C API: structures, calls that may be wrong, an engine's answer, and elastic capacity."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vmoe_runtime.installation import SDK_LIBRARY, find_native

_TYPES = {
    "z": ctypes.c_size_t, "p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int32, "l": ctypes.c_int64,
    "d": ctypes.c_double,
}  # fmt: skip


class RefusedError(Exception):
    """The SDK returned a status; its text is the message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _structure(name: str, fields: str) -> Any:
    """A structure of "type:name" fields."""
    pairs = [field.split(":") for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": [(field, _TYPES[kind]) for kind, field in pairs]})


LoadOptions = _structure("LoadOptions", "z:struct_size i:threads i:verify s:profile s:onnxruntime")
Images = _structure("Images", "z:struct_size p:data z:data_bytes i:dtype i:reserved l:count l:height l:width l:channels")
Picture = _structure("Picture", "z:struct_size p:data z:data_bytes l:height l:width l:channels")
Setting = _structure("Setting", "z:struct_size s:profile i:set i:bpr d:capacity_ratio l:k i:pool i:reserved l:max_experts")
Level = _structure("Level", "d:fixed d:each")
ElasticOptions = _structure("ElasticOptions", "z:struct_size d:target l:most_images l:multiple d:time")
Seen = _structure("Seen", "z:struct_size d:time l:waiting d:oldest l:arrived")
Decision = _structure("Decision", "z:struct_size l:level l:images d:load")


def filled(kind: Any, **fields: object) -> Any:
    """A structure with its size and these fields."""
    return kind(**{"struct_size": ctypes.sizeof(kind)} | fields)


@functools.cache
def sdk() -> ctypes.CDLL | None:
    """The installed SDK, or None where this installation has none."""
    path = find_native("lib", SDK_LIBRARY)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.vmoe_status_message.restype = ctypes.c_char_p
    return library


def call(name: str, *arguments: Any) -> None:
    """Calls the function `vmoe_NAME`, which returns a status.

    Numbers are passed in 64 bits, structures and arrays by their address.

    Raises:
        RefusedError: the status is an error.
    """
    library = sdk()
    assert library is not None
    function = getattr(library, f"vmoe_{name}")
    function.restype = ctypes.c_void_p
    if status := function(*map(_passed, arguments)):
        code, text = library.vmoe_status_code(ctypes.c_void_p(status)), library.vmoe_status_message(ctypes.c_void_p(status))
        message = text.decode()
        library.vmoe_status_free(ctypes.c_void_p(status))
        raise RefusedError(code, message)


def _passed(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    return ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else argument


def loaded(bundle: Path, threads: int = 1) -> ctypes.c_void_p:
    """An engine, to be given to `free`.

    Raises:
        RefusedError: the SDK refused the bundle.
    """
    engine = ctypes.c_void_p()
    options = filled(LoadOptions, threads=threads, verify=1, onnxruntime=bytes(onnxruntime_library()))
    call("engine_load", bytes(bundle), options, ctypes.byref(engine))
    return engine


def free(what: str, handle: ctypes.c_void_p) -> None:
    """Frees an "engine" or an "elastic"."""
    getattr(sdk(), f"vmoe_{what}_free")(handle)


def answer(bundle: Path, images: np.ndarray[Any, Any], outputs: int, threads: int = 1) -> np.ndarray[Any, Any]:
    """Loads a bundle and runs it once.

    Args:
        bundle: its folder.
        images: float32[N,H,W,C].
        outputs: floats per image that the caller expects.
        threads: threads per call.

    Returns:
        float32[N, outputs].

    Raises:
        RefusedError: the SDK refused the bundle or the call.
    """
    engine = loaded(bundle, threads)
    try:
        batch = np.ascontiguousarray(images)
        result = np.empty((len(batch), outputs), np.float32)
        shape = dict(zip(("count", "height", "width", "channels"), batch.shape, strict=True))
        data = filled(Images, data=batch.ctypes.data, data_bytes=batch.nbytes, dtype=1, **shape)
        call("engine_run", engine, data, None, result, result.size)
        return result
    finally:
        free("engine", engine)


@functools.cache
def onnxruntime_library() -> Path:
    """ONNX Runtime's shared library in its Python package."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    return next(path for path in folder.glob("libonnxruntime.so.*") if path.is_file())
