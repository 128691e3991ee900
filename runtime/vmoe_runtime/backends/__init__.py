"""Backends: what runs a bundle's graph on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vmoe_runtime import op_library
from vmoe_runtime.backends.sharing import SharedLoads, content_key
from vmoe_runtime.bundle import Bundle
from vmoe_runtime.errors import BackendError, UnsuitedError

Array = np.ndarray[Any, np.dtype[Any]]


class Backend(Protocol):
    """A loaded graph. `run` may be called from many threads at once."""

    @property
    def description(self) -> str:
        """What runs the model, in words: runtime, version, and whether the op library is used."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the graph.

        Raises:
            BackendError: the runtime failed.
        """


def _onnxruntime(bundle: Bundle, threads: int | None) -> Backend:
    from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return OnnxRuntimeBackend.for_bundle(bundle, threads)


def _openvino(bundle: Bundle, threads: int | None) -> Backend:
    from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend

    return OpenVinoBackend.for_bundle(bundle, threads)


BACKENDS: Mapping[str, Callable[[Bundle, int | None], Backend]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


_loads: SharedLoads[Backend] = SharedLoads()


def open_backend(name: str, bundle: Bundle, threads: int | None) -> tuple[str, Backend]:
    """Loads a bundle's graph, or shares it with whoever loaded the same files on the same backend and threads.

    Args:
        name: a key of BACKENDS, or "auto" for the fastest one that is installed.
        bundle: what to load.
        threads: threads per call, or None for the runtime's own choice.

    Returns:
        The name of the backend, and the backend.

    Raises:
        BackendError: no such backend, it is not installed, or it can't load the graph.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= 1024):
        raise BackendError(f"threads must be a whole number from 1 to 1024, not {threads!r}")
    if name != "auto":
        if name not in BACKENDS:
            raise BackendError(f"backend '{name}' is not known; {', '.join(BACKENDS)} and auto are")
        try:
            return name, _load(name, bundle, threads)
        except ImportError as error:
            raise BackendError(f"backend '{name}' is not installed ({error}); {_how_to_install(name)}") from None
    unsuited: UnsuitedError | None = None
    for candidate in _fastest_first():
        try:
            return candidate, _load(candidate, bundle, threads)
        except ImportError:
            continue
        except UnsuitedError as error:
            unsuited = error
    raise unsuited or BackendError(f"no backend is installed; {_how_to_install('onnxruntime')}")


def _fastest_first() -> tuple[str, ...]:
    """ONNX Runtime is the faster one with the op library, and OpenVINO on standard ops."""
    return ("openvino", "onnxruntime") if op_library.find_library() is None else ("onnxruntime", "openvino")


def _load(name: str, bundle: Bundle, threads: int | None) -> Backend:
    return _loads.get(
        (name, threads, op_library.find_library(), content_key(bundle)), lambda: BACKENDS[name](bundle, threads)
    )


def _how_to_install(name: str) -> str:
    extra = {"onnxruntime": "cpu"}.get(name, name)
    return f"pip install 'vmoe-export[{extra}]'"
