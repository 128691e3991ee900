"""The backends. A backend runs a bundle's graph. Each backend is a module that imports its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from vmoe_runtime import op_library
from vmoe_runtime.backends.nvidia_gpu import has_driver
from vmoe_runtime.backends.sharing import SharedLoads
from vmoe_runtime.backends.tensorrt.tensorrt_graph import tensorrt_graph_name
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError, shown
from vmoe_runtime.processors import max_threads
from vmoe_runtime.profiles import Profile
from vmoe_runtime.settings import as_whole

Array = np.ndarray[Any, np.dtype[Any]]


class Backend(Protocol):
    """A loaded graph. `run` may be called from many threads at once.

    Attributes:
        description: the runtime, its version, and whether the op library is used.
    """

    description: str

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Run the graph.

        Raises:
            BackendError: the runtime failed.
            ImageError: the graph was built for smaller or larger batches than this one.
            RoutingError: the backend does not support the routing that the feeds request.
        """


@dataclass(frozen=True)
class Parallelism:
    """The number of threads and streams that a backend uses on the CPU.

    If a number is None, the runtime chooses it.

    Attributes:
        threads: CPU threads per call.
        streams: maximum number of concurrent calls, each on its own threads.
        spin: whether ONNX Runtime's threads spin for a while after a call instead of sleeping at once.
    """

    threads: int | None = None
    streams: int | None = None
    spin: bool = False

    def checked(self) -> Parallelism:
        """Return a copy in which the numbers are Python integers.

        Raises:
            BackendError: a number is not a whole number of at least 1, or is above `max_threads()`.
        """
        most = max_threads()
        numbers = {name: as_whole(getattr(self, name)) for name in ("threads", "streams")}
        for name, number in numbers.items():
            if (value := getattr(self, name)) is not None and (number is None or not 1 <= number <= most):
                raise BackendError(f"{name} must be a whole number from 1 to {most} on this machine, not {shown(value)}")
        return Parallelism(**numbers, spin=self.spin)


class PreparedBackend(NamedTuple):
    """A backend for which everything needed on this machine is present.

    This is checked as far as possible without loading the graph.

    Attributes:
        description: the runtime, its version, and whether the op library is used, for people to read.
        load: function that loads the graph.
        key: everything that the loaded graph depends on, except the bundle.
    """

    description: str
    load: Callable[[], Backend]
    key: Hashable


@dataclass(frozen=True)
class BackendKind:
    """The code that loads a backend, and the options that the backend supports.

    Attributes:
        module: name of the module in this package that imports the runtime.
        function: name of the function in that module that returns a PreparedBackend. Its arguments are a bundle, a profile
            and a Parallelism.
        extra: the extra of this Python package that installs the runtime.
        on_gpu: whether the backend runs on a GPU. If so, it ignores the number of threads.
        has_streams: whether the backend supports more than one stream.
    """

    module: str
    function: str
    extra: str
    on_gpu: bool = False
    has_streams: bool = False
    one_profile: bool = False


BACKENDS: Mapping[str, BackendKind] = {
    "onnxruntime": BackendKind("onnxruntime_cpu", "prepare", "cpu"),
    "openvino": BackendKind("openvino_cpu", "prepare", "openvino", has_streams=True),
    "cuda": BackendKind("onnxruntime_cuda", "prepare_cuda", "gpu", on_gpu=True),
    "cuda-fixed": BackendKind("onnxruntime_cuda", "prepare_fixed_cuda", "gpu", on_gpu=True, one_profile=True),
    "ort-tensorrt": BackendKind("tensorrt.onnxruntime_provider", "prepare", "gpu", on_gpu=True, one_profile=True),
    "tensorrt": BackendKind("tensorrt.tensorrt_engine", "prepare", "tensorrt", on_gpu=True, one_profile=True),
}

_loads = SharedLoads()


def prepare_backend(
    name: str, bundle: Bundle, profile: Profile | None, parallelism: Parallelism = Parallelism()
) -> PreparedBackend:
    """Check that everything a backend needs to run a bundle is available, and prepare the backend.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: the profile to run, for a backend that is fixed to one profile; None for a model without profiles.
        parallelism: threads and streams.

    Raises:
        BackendError: the backend is not installed, or can't run the bundle here.
    """
    kind = BACKENDS[name]
    if not kind.has_streams and parallelism.streams not in (None, 1):
        having = ", ".join(name for name, other in BACKENDS.items() if other.has_streams)
        raise UnsuitedError(f"backend '{name}' has no streams ({having} has); calls at once to one engine need none")
    if kind.one_profile:
        # Check the graph before the import. Otherwise, users could install a runtime although the bundle lacks the graph
        # for this profile.
        tensorrt_graph_name(bundle, profile)
    try:
        module = import_module(f"{__name__}.{kind.module}")
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # the user pressed Ctrl-C while a native module was imported
            raise error.__cause__ from None
        raise UnavailableError(f"backend '{name}' is not installed ({error}); {_how_to_install(name)}") from None
    prepared: PreparedBackend = getattr(module, kind.function)(bundle, profile, parallelism)
    return prepared


def open_backend(name: str, bundle: Bundle, parallelism: Parallelism, profile: Profile | None = None) -> tuple[str, Backend]:
    """Load a bundle's graph. If another engine loaded the same files in the same way, share its graph.

    Args:
        name: a key of BACKENDS, or "auto" for the fastest backend that works here.
        bundle: the bundle to load.
        parallelism: threads and streams; backends on a GPU ignore the threads.
        profile: the profile to run, for a backend that is fixed to one profile.

    Returns:
        The name of the backend, and the backend.

    Raises:
        BackendError: there is no such backend, it is not installed, or it can't load the graph.
    """
    parallelism = parallelism.checked()
    if name != "auto" and (not isinstance(name, str) or name not in BACKENDS):
        raise BackendError(f"backend {shown(name)} is not known; {', '.join(BACKENDS)} and auto are")
    unsuited: UnsuitedError | None = None
    for candidate in fastest_first() if name == "auto" else (name,):
        try:
            prepared = prepare_backend(candidate, bundle, profile, parallelism)
            return candidate, _loads.get((candidate, bundle.content_key, prepared.key), prepared.load)
        except (UnavailableError, UnsuitedError) as error:
            if name != "auto":
                raise
            unsuited = error if isinstance(error, UnsuitedError) else unsuited
    raise unsuited or BackendError(f"no backend is installed; {_how_to_install('onnxruntime')}")


def fastest_first() -> tuple[str, ...]:
    """Return the names of the backends that "auto" tries, from the fastest to the slowest.

    On a CPU, ONNX Runtime is faster than OpenVINO if it uses the op library, and slower than OpenVINO if it uses standard
    ops.
    """
    on_cpu = ("openvino", "onnxruntime") if op_library.usable_library()[0] is None else ("onnxruntime", "openvino")
    # CUDA can't work without a driver. If there is none, don't import the CUDA runtime.
    return ("cuda", *on_cpu) if has_driver() else on_cpu


def _how_to_install(name: str) -> str:
    return f"pip install 'vmoe-export[{BACKENDS[name].extra}]'"
