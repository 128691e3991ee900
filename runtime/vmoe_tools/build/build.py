"""The steps of a build: read the bundle, run it on the CPU, build the engine, compare, and store the engine.

The engine is stored only if the comparison succeeds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from vmoe_runtime.backends.batch_range import BatchRange
from vmoe_runtime.backends.tensorrt.engine_cache import EngineRecord, digest_of, load_engine, private_folder, read_private
from vmoe_runtime.backends.tensorrt.tensorrt_engine import TensorRtBackend, engine_key, plugin_library
from vmoe_runtime.backends.tensorrt.tensorrt_graph import tensorrt_graph_name
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_tools.build.check import Check, Reference
from vmoe_tools.build.engine_store import FOR_OWNER, store_engine
from vmoe_tools.build.tensorrt_builder import serialized_engine
from vmoe_tools.output import write_bytes

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in the cache.

    Attributes:
        record: the record that is stored with the engine: inputs of the build, GPU, and batch sizes.
        seconds: duration of the build; None if the engine was already in the cache.
        checks: comparisons with the CPU, at the smallest and the largest batch size. Empty if the engine was already in the
            cache.
    """

    record: EngineRecord
    seconds: float | None = None
    checks: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a description of the engine, as a dictionary with the keys and values of the JSON."""
        record = asdict(self.record)
        return {
            "engine": str(self.record.key.file),
            **record.pop("key"),
            **record,
            "seconds": self.seconds,
            "checks": [asdict(check) for check in self.checks],
        }


def build_engine(
    bundle: Bundle,
    profile: Profile | None,
    batches: BatchRange,
    *,
    workspace: int | None,
    plugin_inside: bool,
    force: bool,
    say: Say,
    log: Say | None,
) -> BuiltEngine:
    """Build an engine. If the cache already contains an engine built from the same inputs, return the cached one.

    Args:
        bundle: the bundle to build from.
        profile: the profile for which the engine is built; None for a dense ViT.
        batches: the smallest, tuned and largest number of images per call.
        workspace: limit of scratch memory in MiB; None for all memory of the GPU.
        plugin_inside: whether to store the plugin library in the engine.
        force: build the engine even if the cache contains it.
        say: called with the name of each step.
        log: called with each line that TensorRT logs.

    Raises:
        click.ClickException: the engine's outputs differ too much from the bundle's. The engine isn't stored.
        BackendError: a requirement is missing, or TensorRT can't build the engine.
        BundleError: the weights were changed after export, or a file was changed during the build.
    """
    key = engine_key(bundle, profile)
    record = EngineRecord(key, batches.smallest, batches.tuned, batches.largest, plugin_inside, sha256="", size=0)
    cached = None if force else load_engine(key)
    if cached is not None and replace(cached[1], sha256="", size=0) == record:
        return BuiltEngine(cached[1])
    plugin = plugin_library() if plugin_inside or bundle.manifest.moe_layers else None
    bundle.verify_weights()
    timing = private_folder() / f"timing-{digest_of([key.tensorrt, key.gpu, key.compute_capability])}.cache"
    say("running the bundle on the CPU")
    reference = Reference(bundle, profile)
    say(f"building with TensorRT {key.tensorrt} for {key.gpu}, which takes minutes")
    start = time.monotonic()
    engine, measured = serialized_engine(
        bundle.graph(tensorrt_graph_name(bundle, profile)),
        plugin,
        batches.shapes(bundle.manifest),
        workspace=None if workspace is None else workspace << 20,
        plugin_inside=plugin_inside,
        timing_cache=read_private(timing) or b"",
        listener=log,
    )
    bundle.check_unchanged()
    seconds = time.monotonic() - start
    if measured:
        write_bytes(timing, measured, FOR_OWNER)
    record = replace(record, sha256=hashlib.sha256(engine).hexdigest(), size=len(engine))
    say("comparing with the CPU")
    loaded = TensorRtBackend(engine, record, None if plugin_inside else plugin)
    checks = tuple(reference.check(loaded, batch) for batch in sorted({batches.smallest, batches.largest}))
    store_engine(engine, record)
    return BuiltEngine(record, seconds, checks)
