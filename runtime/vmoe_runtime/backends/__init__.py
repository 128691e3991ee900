"""Backends: what runs a bundle's graph. Each lives in a module of its own that imports its runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from vmoe_runtime import op_library
from vmoe_runtime.backends.batch_range import VARIABLE as BATCH_VARIABLE
from vmoe_runtime.backends.cuda_library import find_cuda_library
from vmoe_runtime.backends.cuda_routing import check_routing
from vmoe_runtime.backends.nvidia_gpu import has_driver
from vmoe_runtime.backends.sharing import SharedLoads
from vmoe_runtime.backends.tensorrt.tensorrt_graph import cuda_graph_name, tensorrt_graph_name
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError, shown
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]


class Backend(Protocol):
    """A loaded graph. `run` may be called from many threads at once."""

    @property
    def description(self) -> str:
        """What runs the model, in words: runtime, version, and whether the op library is used."""

    @property
    def profile(self) -> Profile | None:
        """The only profile that the graph can run; None where the setting is an input, or where it is dense."""

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Runs the graph.

        Raises:
            BackendError: the runtime failed.
            ImageError: the graph was built for fewer images, or for more.
            RoutingError: the backend can't route as the feeds ask for.
        """


@dataclass(frozen=True)
class Parallelism:
    """How a backend on the CPU spreads its work; None is the runtime's own choice.

    Attributes:
        threads: CPU threads per call.
        streams: calls that run at once, each on threads of its own.
    """

    threads: int | None = None
    streams: int | None = None

    def check(self) -> None:
        """Raises BackendError for what is no whole number from 1 to 1024."""
        for name, value in (("threads", self.threads), ("streams", self.streams)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024):
                raise BackendError(f"{name} must be a whole number from 1 to 1024, not {shown(value)}")


@dataclass(frozen=True)
class BackendKind:
    """How a backend is loaded.

    Attributes:
        load: takes the bundle, how it is run in parallel, and the engine's profile.
        extra: of the package, that installs it.
        describe: the `description` that it would have for a bundle and a profile, without loading; raises as `load` does,
            except for failures that only loading shows.
        check: raises BackendError for a bundle, or a profile of it, that it can't run on any machine; called first.
        on_gpu: it runs on a GPU, where threads mean nothing.
        has_streams: it can have more than one stream.
        one_profile: what it loads is fixed to the engine's profile.
        shared: engines of one process that load the same files share one; where not, the backend sees to that itself.
    """

    load: Callable[[Bundle, Parallelism, Profile | None], Backend]
    extra: str
    describe: Callable[[Bundle, Profile | None], str]
    check: Callable[[Bundle, Profile | None], object] = lambda _bundle, _profile: None
    on_gpu: bool = False
    has_streams: bool = False
    one_profile: bool = False
    shared: bool = True


def _module(name: str) -> Any:
    """The module of a backend, which imports its runtime."""
    return import_module(f"{__name__}.{name}")


BACKENDS: Mapping[str, BackendKind] = {
    "onnxruntime": BackendKind(
        lambda bundle, cpu, _: _module("onnxruntime_cpu").OnnxRuntimeBackend.for_bundle(bundle, cpu.threads),
        "cpu",
        lambda _, __: _module("onnxruntime_cpu").check_cpu(),
    ),
    "openvino": BackendKind(
        lambda bundle, cpu, _: _module("openvino_cpu").OpenVinoBackend.for_bundle(bundle, cpu.threads, cpu.streams),
        "openvino",
        lambda bundle, _: _module("openvino_cpu").check_cpu(bundle),
        has_streams=True,
    ),
    "cuda": BackendKind(
        lambda bundle, _, __: _module("onnxruntime_gpu").cuda_backend(bundle),
        "gpu",
        lambda _, __: _module("onnxruntime_gpu").check_cuda(),
        check_routing,
        on_gpu=True,
    ),
    "cuda-fixed": BackendKind(
        lambda bundle, _, profile: _module("onnxruntime_gpu").fixed_cuda_backend(bundle, profile),
        "gpu",
        lambda bundle, _: _module("onnxruntime_gpu").check_fixed_cuda(bundle),
        cuda_graph_name,
        on_gpu=True,
        one_profile=True,
    ),
    "ort-tensorrt": BackendKind(
        lambda bundle, _, profile: _module("onnxruntime_gpu").tensorrt_backend(bundle, profile),
        "gpu",
        lambda _, profile: _module("onnxruntime_gpu").check_tensorrt(profile),
        tensorrt_graph_name,
        on_gpu=True,
        one_profile=True,
    ),
    "tensorrt": BackendKind(
        lambda bundle, _, profile: _module("tensorrt.tensorrt_engine").TensorRtBackend.for_bundle(bundle, profile),
        "tensorrt",
        lambda bundle, profile: _module("tensorrt.tensorrt_engine").check_engine(bundle, profile),
        tensorrt_graph_name,
        on_gpu=True,
        one_profile=True,
        shared=False,
    ),
}

_loads: SharedLoads[Backend] = SharedLoads()


def open_backend(name: str, bundle: Bundle, parallelism: Parallelism, profile: Profile | None = None) -> tuple[str, Backend]:
    """Loads a bundle's graph, or shares it with an engine that loaded the same files in the same way.

    Args:
        name: a key of BACKENDS, or "auto" for the fastest one that works here.
        bundle: what to load.
        parallelism: backends on a GPU have no threads.
        profile: for a backend that is fixed to one.

    Returns:
        The name of the backend, and the backend.

    Raises:
        BackendError: no such backend, it is not installed, or it can't load the graph.
    """
    parallelism.check()
    if name != "auto":
        if not isinstance(name, str) or name not in BACKENDS:
            raise BackendError(f"backend {shown(name)} is not known; {', '.join(BACKENDS)} and auto are")
        try:
            return name, _load(name, bundle, parallelism, profile)
        except ImportError as error:
            raise not_installed(name, error) from None
    unsuited: UnsuitedError | None = None
    for candidate in fastest_first():
        try:
            return candidate, _load(candidate, bundle, parallelism, profile)
        except (ImportError, UnavailableError):
            continue
        except UnsuitedError as error:
            unsuited = error
    raise unsuited or BackendError(f"no backend is installed; {_how_to_install('onnxruntime')}")


def fastest_first() -> tuple[str, ...]:
    """The backends that "auto" tries, in this order.

    On a CPU, ONNX Runtime is the faster one with the op library, and OpenVINO on standard ops.
    """
    on_cpu = ("openvino", "onnxruntime") if op_library.usable_library()[0] is None else ("onnxruntime", "openvino")
    # Without a driver nothing need be imported to know that CUDA doesn't work.
    return ("cuda", *on_cpu) if has_driver() else on_cpu


def _load(name: str, bundle: Bundle, parallelism: Parallelism, profile: Profile | None) -> Backend:
    kind = BACKENDS[name]
    if not kind.has_streams and parallelism.streams not in (None, 1):
        having = ", ".join(name for name, other in BACKENDS.items() if other.has_streams)
        raise UnsuitedError(f"backend '{name}' has no streams ({having} has); calls at once to one engine need none")
    kind.check(bundle, profile)
    if not kind.shared:
        return kind.load(bundle, parallelism, profile)
    key = (
        name,
        os.environ.get(BATCH_VARIABLE) if kind.on_gpu else parallelism,
        profile if kind.one_profile else None,
        find_cuda_library() if kind.on_gpu else op_library.usable_library()[0],
        bundle.content_key,
    )
    return _loads.get(key, lambda: kind.load(bundle, parallelism, profile))


def not_installed(name: str, error: ImportError) -> UnavailableError:
    """The error for a backend whose package can't be imported."""
    return UnavailableError(f"backend '{name}' is not installed ({error}); {_how_to_install(name)}")


def _how_to_install(name: str) -> str:
    return f"pip install 'vmoe-export[{BACKENDS[name].extra}]'"
