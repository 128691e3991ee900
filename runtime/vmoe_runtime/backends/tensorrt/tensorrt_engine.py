"""The TensorRT backend.

It runs an engine that `vmoe build` built for one profile and stored in the cache folder.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue

from vmoe_runtime.backends import Array, Parallelism, PreparedBackend
from vmoe_runtime.backends.cuda_library import usable_cuda_library
from vmoe_runtime.backends.nvidia_gpu import find_gpu
from vmoe_runtime.backends.tensorrt import tensorrt_api
from vmoe_runtime.backends.tensorrt.engine_cache import EngineCacheError, EngineKey, EngineRecord, load_engine
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, ImageError
from vmoe_runtime.installation import TENSORRT_PLUGIN, __version__, find_native, native_path
from vmoe_runtime.profiles import Profile

_LANES = 2  # one call copies while the other computes; only one can compute at a time, so a third lane would only use memory


class TensorRtBackend:
    """A loaded engine. Up to two calls run at the same time; further calls wait.

    Args:
        engine: the engine's bytes, as TensorRT serialised them.
        record: the description of the engine.
        plugin: the plugin library; None if the engine contains the plugin library or needs none.

    Raises:
        BackendError: TensorRT can't load the engine.
    """

    def __init__(self, engine: bytes, record: EngineRecord, plugin: Path | None) -> None:
        self._record = record
        self.description = _description(record)
        self._loaded = tensorrt_api.LoadedEngine(engine, plugin, record.plugin_inside)
        # The queue is last in, first out. So calls use existing lanes before they create new ones.
        self._lanes: LifoQueue[tensorrt_api.Lane | None] = LifoQueue()
        for _ in range(_LANES):
            self._lanes.put(None)  # None stands for a lane that is created when it is first needed

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Run the engine on the array `image` in `feeds` and return the arrays of `outputs`.

        This method is safe to call from many threads.

        Raises:
            ImageError: the batch is too small or too large for the engine.
            BackendError: TensorRT or CUDA failed.
        """
        image = feeds[tensorrt_api.INPUT]
        smallest, largest = self._record.min_batch, self._record.max_batch
        if not smallest <= len(image) <= largest:
            option = "--batch-size" if len(image) > largest else "--min-batch-size"
            raise ImageError(
                f"the engine was built for {smallest} to {largest} images, and the batch has {len(image)}; "
                f"run vmoe build with {option} {len(image)}"
            )
        with self._lane() as lane:
            return lane.run(image, outputs)

    @contextmanager
    def _lane(self) -> Iterator[tensorrt_api.Lane]:
        lane = self._lanes.get()
        try:
            lane = lane or tensorrt_api.Lane(self._loaded)
            yield lane
        except BaseException:
            lane = None  # after a failure, the lane is never used again
            raise
        finally:
            self._lanes.put(lane)


def prepare(bundle: Bundle, profile: Profile | None, _: Parallelism) -> PreparedBackend:
    """Prepare the engine that `vmoe build` built for a bundle at a profile.

    The engine must have been built for this GPU and this version of TensorRT.

    Raises:
        UnavailableError: there is no GPU, or this installation lacks the plugin, which MoE layers need.
        BackendError: no such engine was built, or its file must not be trusted.
    """
    key = engine_key(bundle, profile)
    command = f"vmoe build {shlex.quote(str(bundle.path))}{f' --profile {profile.name}' if profile else ''}"
    try:
        cached = load_engine(key)
    except EngineCacheError as error:
        raise EngineCacheError(f"{error}; run {command} --force") from None
    moe = bool(bundle.manifest.moe_layers)
    if cached is None:
        if moe:
            plugin_library()  # if the plugin is missing, this error comes first, because `vmoe build` needs the plugin too
        of_profile = f"profile {profile.name} with " if profile else ""
        raise BackendError(f"no engine was built for {of_profile}TensorRT {key.tensorrt} on {key.gpu}; run {command}")
    engine, record = cached
    plugin = plugin_library() if moe and not record.plugin_inside else None
    # The key contains the engine's hash, because a new engine may be built for the same bundle while the old engine is
    # still in use.
    return PreparedBackend(_description(record), lambda: TensorRtBackend(engine, record, plugin), (key, record.sha256))


def engine_key(bundle: Bundle, profile: Profile | None) -> EngineKey:
    """Return the key of the bundle's engine for this GPU, this version of TensorRT and this installation.

    Raises:
        UnavailableError: there is no driver or no GPU, or the GPU or driver can't run the plugin.
        BackendError: this process can't load the op library that was compiled along with the plugin.
    """
    gpu = find_gpu()
    if bundle.manifest.moe_layers:  # engines of a dense ViT need no plugin
        usable_cuda_library(gpu, "TensorRT plugin")
    plugin = find_native("lib", TENSORRT_PLUGIN)
    return EngineKey(
        bundle=bundle.identity,
        profile=None if profile is None else profile.name,
        precision=exported_graphs(bundle).precision,
        tensorrt=tensorrt_api.version(),
        plugin=None if plugin is None else hashlib.sha256(plugin.read_bytes()).hexdigest(),
        package=__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
    )


def plugin_library() -> Path:
    """Return the path of the TensorRT plugin.

    Raises:
        UnavailableError: this installation has no plugin; the message says what to install.
    """
    return native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_PLUGIN)


def _description(record: EngineRecord) -> str:
    key = record.key
    return f"TensorRT {key.tensorrt} on {key.gpu}, {key.precision}, batches of {record.min_batch} to {record.max_batch}"
