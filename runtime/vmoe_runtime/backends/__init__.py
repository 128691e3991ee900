"""Backends: what runs a bundle's graph on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vmoe_runtime.bundle import Bundle
from vmoe_runtime.errors import BackendError

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


def open_backend(name: str, bundle: Bundle, threads: int | None) -> tuple[str, Backend]:
    """Loads a bundle's graph.

    Args:
        name: a key of BACKENDS, or "auto" for the first one that is installed.
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
            return name, BACKENDS[name](bundle, threads)
        except ImportError as error:
            raise BackendError(f"backend '{name}' is not installed ({error}); {_how_to_install(name)}") from None
    for candidate, load in BACKENDS.items():
        try:
            return candidate, load(bundle, threads)
        except ImportError:
            continue
    raise BackendError(f"no backend is installed; {_how_to_install('onnxruntime')}")


def _how_to_install(name: str) -> str:
    extra = {"onnxruntime": "cpu"}.get(name, name)
    return f"pip install 'vmoe-export[{extra}]'"
