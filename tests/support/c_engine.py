"""The C++ SDK's reader and engine, called through its C API."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vmoe_runtime.installation import SDK_LIBRARY, find_native


class RefusedError(Exception):
    """The SDK returned a status; its text is the message."""


class _LoadOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
        ("verify", ctypes.c_int32),
        ("profile", ctypes.c_char_p),
        ("onnxruntime", ctypes.c_char_p),
    )


class _Images(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("data_bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("count", "height", "width", "channels")),
    )


@functools.cache
def sdk() -> ctypes.CDLL | None:
    """The installed SDK, or None where this installation has none."""
    path = find_native("lib", SDK_LIBRARY)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    for name in ("vmoe_engine_load", "vmoe_engine_run"):
        getattr(library, name).restype = ctypes.c_void_p
    library.vmoe_status_message.restype = ctypes.c_char_p
    library.vmoe_status_message.argtypes = [ctypes.c_void_p]
    library.vmoe_status_free.argtypes = [ctypes.c_void_p]
    library.vmoe_engine_free.argtypes = [ctypes.c_void_p]
    library.vmoe_engine_run.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,
    ]  # fmt: skip
    return library


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
    library = sdk()
    assert library is not None
    engine = ctypes.c_void_p()
    options = _LoadOptions(ctypes.sizeof(_LoadOptions), threads, 1, None, str(_onnxruntime()).encode())
    _check(library, library.vmoe_engine_load(bytes(bundle), ctypes.byref(options), ctypes.byref(engine)))
    try:
        batch = np.ascontiguousarray(images)
        result = np.empty((len(batch), outputs), np.float32)
        data = _Images(ctypes.sizeof(_Images), batch.ctypes.data, batch.nbytes, 1, 0, *batch.shape)
        _check(library, library.vmoe_engine_run(engine, ctypes.byref(data), None, result.ctypes.data, result.size))
        return result
    finally:
        library.vmoe_engine_free(engine)


@functools.cache
def _onnxruntime() -> Path:
    folder = Path(onnxruntime.__file__).parent / "capi"
    return next(path for path in folder.glob("libonnxruntime.so.*") if path.is_file())


def _check(library: ctypes.CDLL, status: int | None) -> None:
    if status:
        message = library.vmoe_status_message(status).decode()
        library.vmoe_status_free(status)
        raise RefusedError(message)
