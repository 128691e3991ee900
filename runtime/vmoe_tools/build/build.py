"""The order of a build: read the bundle, run it on the CPU, build, compare, and only then keep the engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmoe_tools.build.check import Check, Expected, compare_engine, expect, refuse_wrong_answers
from vmoe_runtime.backends import Backend
from vmoe_runtime.backends.batch_range import BatchRange
from vmoe_runtime.backends.tensorrt.engine_cache import (
    EngineKey,
    EngineRecord,
    engine_path,
    load_engine,
    private_folder,
    read_private,
    store_engine,
    write_private,
)
from vmoe_runtime.backends.tensorrt.tensorrt_graph import tensorrt_graph_name
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile

Say = Callable[[str], None]

_MAX_TIMING_CACHE_BYTES = 1 << 28


@dataclass(frozen=True)
class BuiltEngine:
    """What a build left in the cache.

    Attributes:
        path: of the engine.
        record: what it was built from and for.
        seconds: that the build took; None where the engine was there already.
        checks: the engine against the CPU, in calls of the fewest and of the most images; none where it was there already.
    """

    path: Path
    record: EngineRecord
    seconds: float | None
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        record = asdict(self.record)
        return {
            "engine": str(self.path),
            **record.pop("key"),
            **record,
            "seconds": self.seconds,
            "checks": [asdict(check) for check in self.checks],
        }


def build(
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
    """Builds an engine, unless the same one is in the cache.

    Args:
        bundle: what to build from.
        profile: the profile that the engine is fixed to; None for a dense ViT.
        batches: images per call.
        workspace: most scratch memory in MiB; None for all of the GPU's.
        plugin_inside: store the plugin library in the engine.
        force: build anyway.
        say: told what is done, in a few words.
        log: told what TensorRT logs.

    Raises:
        BuildError: the engine doesn't answer as the bundle does; it isn't kept.
        BackendError: something is missing, or TensorRT can't build the engine.
        BundleError: the weights were changed after export, or any file meanwhile.
    """
    graph = bundle.graph(tensorrt_graph_name(bundle, profile))
    # Both need TensorRT, which printing a command line does not.
    from vmoe_runtime.backends.tensorrt import tensorrt_api
    from vmoe_runtime.backends.tensorrt.tensorrt_engine import TensorRtBackend, engine_key, gpu_for, plugin_library

    gpu = gpu_for(profile)
    key = engine_key(bundle, profile, gpu)
    if not force and (kept := _kept_engine(key, batches, plugin_inside)) is not None:
        return kept
    plugin = plugin_library()
    bundle.verify_weights()
    timing = _timing_cache(f"{key.tensorrt} {gpu}")
    say("running the bundle on the CPU")
    expected = expect(bundle, profile)
    say(f"building with TensorRT {key.tensorrt} for {gpu.name}, which takes minutes")
    start = time.monotonic()
    options = tensorrt_api.BuildOptions(
        shapes=batches.shapes(bundle.manifest),
        workspace=None if workspace is None else workspace << 20,
        plugin_inside=plugin_inside,
        timing_cache=read_private(timing, _MAX_TIMING_CACHE_BYTES) or b"",
    )
    engine, measured = tensorrt_api.build_engine(graph, plugin, options, log)
    bundle.check_unchanged()
    seconds = time.monotonic() - start
    if measured:
        write_private(timing, measured)
    sha256 = hashlib.sha256(engine).hexdigest()
    record = EngineRecord(key, batches.smallest, batches.tuned, batches.largest, plugin_inside, sha256, len(engine))
    say("comparing with the CPU")
    checks = _checks(TensorRtBackend(engine, record, profile), bundle.manifest, expected, profile, record)
    return BuiltEngine(store_engine(engine, record), record, seconds, checks)


def _checks(
    loaded: Backend, manifest: Manifest, expected: Expected, profile: Profile | None, record: EngineRecord
) -> tuple[Check, ...]:
    """The engine against the CPU at both ends of its batches; the first one that fails is raised."""
    checks = []
    for batch in sorted({record.min_batch, record.max_batch}):
        checks.append(compare_engine(loaded, manifest, expected, profile, batch))
        refuse_wrong_answers(checks[-1], record.key.precision)
    return tuple(checks)


def _timing_cache(what: str) -> Path:
    return private_folder() / f"timing-{hashlib.sha256(what.encode()).hexdigest()[:16]}.cache"


def _kept_engine(key: EngineKey, batches: BatchRange, plugin_inside: bool) -> BuiltEngine | None:
    """The engine in the cache, if it is what would be built."""
    found = load_engine(key)
    if found is None:
        return None
    record = found[1]
    same = EngineRecord(key, batches.smallest, batches.tuned, batches.largest, plugin_inside, record.sha256, record.size)
    return BuiltEngine(engine_path(key), record, None, ()) if record == same else None
