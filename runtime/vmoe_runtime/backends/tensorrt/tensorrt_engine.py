"""TensorRT: an engine that `vmoe-build` built for one profile, from the cache folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore
from typing import Any, TypeVar

import numpy as np

from vmoe_runtime.backends.cuda_library import check_plugin
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.backends.sharing import SharedLoads
from vmoe_runtime.backends.tensorrt import tensorrt_api
from vmoe_runtime.backends.tensorrt.engine_cache import (
    EngineCacheError,
    EngineKey,
    EngineRecord,
    difference,
    file_digest,
    find_record,
    load_engine,
    other_engines,
)
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, ImageError, UnavailableError
from vmoe_runtime.installation import TENSORRT_PLUGIN, NotInstalledError, __version__, find_native, native_path
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]
Found = TypeVar("Found")

_LANES = 2  # one call copies while the other computes; more would only take memory, since a GPU does one thing at a time


class TensorRtBackend:
    """A loaded engine; up to two calls run at once, others wait for them.

    Args:
        engine: as TensorRT serialised it.
        record: what the engine was built from and for.
        profile: the profile that the engine is fixed to; None for a dense ViT.

    Raises:
        UnavailableError: this installation has no plugin.
        BackendError: TensorRT can't load the engine.
    """

    def __init__(self, engine: bytes, record: EngineRecord, profile: Profile | None) -> None:
        self.profile = profile
        self._record = record
        self._loaded = tensorrt_api.LoadedEngine(engine, None if record.plugin_inside else plugin_library())
        self._free = BoundedSemaphore(_LANES)
        self._idle: SimpleQueue[tensorrt_api.Lane] = SimpleQueue()

    @classmethod
    def for_bundle(cls, bundle: Bundle, profile: Profile | None) -> TensorRtBackend:
        """The engine that was built for a bundle at a profile, on this GPU by this TensorRT.

        Raises:
            UnavailableError: there is no GPU, or this installation has no plugin.
            BackendError: no such engine was built, or it must not be trusted, or can't be loaded.
        """
        engine, record = _cached(bundle, profile, load_engine)
        # An engine may be built again while the old one is still in use.
        return _loads.get((record.key, record.sha256), lambda: cls(engine, record, profile))

    @property
    def description(self) -> str:
        """Version, GPU, precision and range of batches."""
        return _description(self._record)

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Runs the engine on `feeds`, an array `image`, and returns the arrays of `outputs`; safe from many threads.

        Raises:
            ImageError: the engine wasn't built for so few or so many images.
            BackendError: TensorRT or CUDA failed.
        """
        dtypes = self._loaded.dtypes
        unknown = [name for name in outputs if name not in dtypes]
        if unknown:
            raise BackendError(f"TensorRT failed: the engine has no output {unknown[0]}")
        if {name: array.dtype for name, array in feeds.items()} != {tensorrt_api.INPUT: dtypes[tensorrt_api.INPUT]}:
            given = ", ".join(f"{name} {array.dtype}" for name, array in feeds.items()) or "nothing"
            raise BackendError(f"TensorRT failed: the engine takes image {dtypes[tensorrt_api.INPUT]}, not {given}")
        image = np.ascontiguousarray(feeds[tensorrt_api.INPUT])
        smallest, largest = self._record.min_batch, self._record.max_batch
        if not smallest <= len(image) <= largest:
            option = "--max-batch" if len(image) > largest else "--min-batch"
            raise ImageError(
                f"the engine was built for {smallest} to {largest} images, and the batch has {len(image)}; "
                f"run vmoe-build with {option} {len(image)}"
            )
        with self._lane() as lane:
            return lane.run(image, outputs)

    @contextmanager
    def _lane(self) -> Iterator[tensorrt_api.Lane]:
        with self._free:
            try:
                lane = self._idle.get_nowait()
            except Empty:
                lane = self._loaded.new_lane()
            yield lane
            # After a failure it isn't used again.
            self._idle.put(lane)


_loads: SharedLoads[TensorRtBackend] = SharedLoads()


def check_engine(bundle: Bundle, profile: Profile | None) -> str:
    """The description of the backend that a bundle would get here, without reading an engine.

    Raises:
        As `TensorRtBackend.for_bundle` does, but that an engine may turn out to be changed when it is read.
    """
    record = _cached(bundle, profile, find_record)
    if not record.plugin_inside:
        plugin_library()
    return _description(record)


def gpu_for(profile: Profile | None) -> Gpu:
    """The GPU that engines of a profile are built for and run on; those of a dense ViT (None) need no plugin.

    Raises:
        UnavailableError: there is no driver or no GPU, or one that can't run the plugin.
        BackendError: this process can't load what was compiled with the plugin.
    """
    gpu = tensorrt_api.gpu()
    if profile is not None:
        check_plugin(gpu)
    return gpu


def engine_key(bundle: Bundle, profile: Profile | None, gpu: Gpu) -> EngineKey:
    """What an engine of this bundle is built from and for, on this GPU by this TensorRT and this installation."""
    plugin = find_native("lib", TENSORRT_PLUGIN)
    return EngineKey(
        bundle=bundle.identity,
        profile=None if profile is None else profile.name,
        precision=exported_graphs(bundle).precision,
        tensorrt=tensorrt_api.version(),
        plugin=None if plugin is None else file_digest(plugin),
        package=__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
    )


def plugin_library() -> Path:
    """Path of the TensorRT plugin.

    Raises:
        UnavailableError: this installation has none; says what to install.
    """
    try:
        return native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_PLUGIN)
    except NotInstalledError as error:
        raise UnavailableError(str(error)) from None


def _cached(bundle: Bundle, profile: Profile | None, find: Callable[[EngineKey], Found | None]) -> Found:
    """What `find` finds in the cache folder for a bundle at a profile."""
    tensorrt_graph_name(bundle, profile)
    key = engine_key(bundle, profile, gpu_for(profile))
    command = f"vmoe-build {shlex.quote(str(bundle.path))}{f' --profile {profile.name}' if profile else ''}"
    try:
        found = find(key)
    except EngineCacheError as error:
        raise EngineCacheError(f"{error}; run {command} --force") from None
    if found is None:
        plugin_library()  # without it none can be built either
        raise BackendError(f"no engine was built for {_described(key)}{_near_miss(key)}; run {command}")
    return found


def _description(record: EngineRecord) -> str:
    key = record.key
    return f"TensorRT {key.tensorrt} on {key.gpu}, {key.precision}, batches of {record.min_batch} to {record.max_batch}"


def _described(key: EngineKey) -> str:
    profile = "" if key.profile is None else f"profile {key.profile} with "
    return f"{profile}TensorRT {key.tensorrt} on {key.gpu}"


def _near_miss(key: EngineKey) -> str:
    """The engine that comes closest, and what it is of instead."""
    others = sorted(other_engines(key), key=lambda other: (other.profile != key.profile, difference(other, key)))
    return f" (there is one of {difference(others[0], key)})" if others else ""
