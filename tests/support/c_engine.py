"""Python functions that call the C++ SDK's C API."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from sdk_build import onnxruntime_library

from vmoe_runtime.installation import SDK_LIBRARY, find_native
from vmoe_runtime.settings import ROWS

_TYPES = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "n": ctypes.c_size_t, "q": ctypes.c_int64, "i": ctypes.c_int32}
_TYPES |= {"d": ctypes.c_double}
_FUNCTIONS = {  # parameter types by function name; all functions return a status
    "vmoe_engine_load": "ppp",
    "vmoe_engine_info": "pp",
    "vmoe_engine_class_name": "pqp",
    "vmoe_engine_moe_layer": "pqp",
    "vmoe_engine_profile": "pqppn",
    "vmoe_engine_setting": "ppppn",
    "vmoe_engine_prepare_image": "pppn",
    "vmoe_engine_check_images": "pp",
    "vmoe_engine_run": "ppppn",
    "vmoe_engine_run_cancellable": "pppppn",
    "vmoe_engine_run_outputs": "pppppppn",
    "vmoe_engine_warm_up": "pqp",
    "vmoe_engine_routing": "pppp",
    "vmoe_routing_layer": "pqp",
    "vmoe_cancellation_create": "p",
    "vmoe_set_log": "ippp",
    "vmoe_elastic_create": "ppnp",
    "vmoe_elastic_decide": "ppp",
    "vmoe_elastic_served": "pqqd",
}


class RefusedError(Exception):
    """Error raised if the SDK returns an error status.

    Its text is the message of the status, and `code` is the status code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _struct(name: str, fields: str) -> type[Any]:
    """Return a function that makes objects of a struct type of the C API.

    The function sets the first field, `struct_size`. `fields` lists the types and names of the other fields, such as "p:data
    n:data_bytes".
    """
    pairs = [field.split(":") for field in fields.split()]
    made = type(name, (ctypes.Structure,), {"_fields_": [("struct_size", _TYPES["n"]), *((n, _TYPES[t]) for t, n in pairs)]})
    return functools.partial(made, ctypes.sizeof(made))  # type: ignore[return-value]


LoadOptions = _struct("LoadOptions", "i:threads i:verify s:profile s:onnxruntime i:spin i:reserved")
Images = _struct("Images", "p:data n:data_bytes i:dtype i:reserved q:count q:height q:width q:channels")
Picture = _struct("Picture", "p:data n:data_bytes q:height q:width q:channels i:orientation i:reserved")
_LETTERS = {"ratio": "d", "whole": "q", "flag": "i"}
Setting = _struct(
    "Setting", " ".join(["s:profile i:set i:reserved", *(f"{_LETTERS[row.type]}:{row.stored}" for row in ROWS.values())])
)
ElasticOptions = _struct("ElasticOptions", "d:target q:most_images q:multiple d:time")
ElasticSeen = _struct("ElasticSeen", "d:time q:waiting d:oldest q:arrived")
ElasticDecision = _struct("ElasticDecision", "q:level q:images d:load")


@functools.cache
def sdk() -> ctypes.CDLL | None:
    """Load the installed SDK. If this installation has no SDK, return None."""
    path = find_native("lib", SDK_LIBRARY)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    for name, types in _FUNCTIONS.items():
        getattr(library, name).restype = ctypes.c_void_p
        getattr(library, name).argtypes = [_TYPES[kind] for kind in types]
    library.vmoe_status_message.restype = ctypes.c_char_p
    for name in ("vmoe_status_message", "vmoe_status_code", "vmoe_status_free", "vmoe_engine_free", "vmoe_elastic_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def call(function: str, *arguments: Any) -> None:
    """Call a function of the C API.

    Raises:
        RefusedError: the function returned an error status.
    """
    library = sdk()
    assert library is not None
    if status := getattr(library, function)(*arguments):
        refusal = RefusedError(library.vmoe_status_code(status), library.vmoe_status_message(status).decode())
        library.vmoe_status_free(status)
        raise refusal


def load(bundle: bytes | None, **options: Any) -> ctypes.c_void_p:
    """Load an engine, and return its handle. The caller must free the handle.

    `options` are fields of `LoadOptions`.
    """
    engine = ctypes.c_void_p()
    given = LoadOptions(options.pop("threads", 1), 1, None, str(onnxruntime_library()).encode())
    for name, value in options.items():
        setattr(given, name, value)
    call("vmoe_engine_load", bundle, ctypes.byref(given), ctypes.byref(engine))
    return engine


def answer(bundle: Path, images: np.ndarray[Any, Any], outputs: int, threads: int = 1) -> np.ndarray[Any, Any]:
    """Load a bundle, run it once and return the outputs.

    Args:
        bundle: the bundle's folder.
        images: float32[N,H,W,C].
        outputs: the expected number of floats per image.
        threads: threads per call.

    Returns:
        float32[N, outputs].

    Raises:
        RefusedError: the SDK refused the bundle or the call.
    """
    engine = load(bytes(bundle), threads=threads)
    try:
        batch = np.ascontiguousarray(images)
        result = np.empty((len(batch), outputs), np.float32)
        data = Images(batch.ctypes.data, batch.nbytes, 1, 0, *batch.shape)
        call("vmoe_engine_run", engine, ctypes.byref(data), None, result.ctypes.data, result.size)
        return result
    finally:
        library = sdk()
        assert library is not None
        library.vmoe_engine_free(engine)
