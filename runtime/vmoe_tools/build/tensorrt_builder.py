"""All TensorRT calls that build an engine. This code has never run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorrt

from vmoe_runtime.backends.tensorrt.tensorrt_api import INPUT, Shape, load_plugin, log, start
from vmoe_runtime.bundle.reader import BundleGraph
from vmoe_runtime.errors import BackendError


def serialized_engine(
    graph: BundleGraph,
    plugin: Path | None,
    shapes: Sequence[Shape],
    *,
    workspace: int | None,
    plugin_inside: bool,
    timing_cache: bytes,
    listener: Callable[[str], None] | None = None,
) -> tuple[bytes, bytes]:
    """Build an engine in the precision of the graph.

    Args:
        graph: the graph to build from.
        plugin: the plugin library; None if the graph doesn't need it.
        shapes: three shapes of the input `image`: the smallest, the one to tune for, and the largest.
        workspace: limit of scratch memory in bytes; None for all memory of the GPU.
        plugin_inside: whether to store the plugin library in the engine.
        timing_cache: TensorRT's measurements from earlier builds; empty before the first build.
        listener: called with each line that TensorRT logs.

    Returns:
        The engine, and the timing cache. The cache also contains the measurements of this build.

    Raises:
        BackendError: TensorRT can't build the engine.
    """
    log.listener = listener
    try:
        builder = start(tensorrt.Builder)
        if plugin is not None:
            load_plugin(builder.get_plugin_registry(), plugin)
        # TensorRT 11 ignores STRONGLY_TYPED, because all its networks are strongly typed.
        network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, log)
        # The second argument is the graph's path. The parser looks for the weights in the same folder.
        if not parser.parse(graph.data, f"{graph.folder}/{graph.path.name}"):
            problems = [parser.get_error(index).desc() for index in range(parser.num_errors)] or [log.reason()]
            raise BackendError(f"TensorRT can't read {graph.path}: {' '.join(problems[0].split())[:400]}")
        config = builder.create_builder_config()
        # The router is float32 in every precision. TF32 has a mantissa of only ten bits, which would change the routing.
        config.clear_flag(tensorrt.BuilderFlag.TF32)
        if workspace is not None:
            config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace)
        if plugin_inside:
            config.plugins_to_serialize = [str(plugin)]
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(config.create_timing_cache(b"") if cache is None else cache, False)
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BackendError(f"TensorRT can't build an engine from {graph.path}: {log.reason()}")
        measured = config.get_timing_cache()
        return bytes(engine), b"" if measured is None else bytes(measured.serialize())
    finally:
        log.listener = None
