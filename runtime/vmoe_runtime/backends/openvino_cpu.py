"""The OpenVINO backend, which runs the inlined graph in float32 on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from vmoe_runtime.backends import Array, Backend, Parallelism, PreparedBackend
from vmoe_runtime.backends.merging import StandardBackend
from vmoe_runtime.bundle.graph_interface import Port, check_interface
from vmoe_runtime.bundle.reader import Bundle, BundleGraph
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError
from vmoe_runtime.installation import oldest_supported, too_old
from vmoe_runtime.processors import processor_limit
from vmoe_runtime.profiles import Profile

# The first import of openvino loads its telemetry package. Telemetry looks up a host and writes into the home folder, both
# on its own threads. A forked process would wait for these threads forever. No option disables telemetry, but openvino works
# if the import of the telemetry package fails.
_TELEMETRY = "openvino_telemetry"
if _unloaded := _TELEMETRY not in sys.modules:
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
try:
    import openvino
    from openvino.frontend import FrontEndManager
finally:
    if _unloaded:
        del sys.modules[_TELEMETRY]

_MAX_GROUP_TOKENS = 46_340  # the largest number whose square fits into an int32; see the check of group sizes in `prepare`
_DESCRIPTION = f"OpenVINO {openvino.__version__.split('-')[0]} CPU, standard ops, f32"


class OpenVinoBackend:
    """A compiled model that runs any profile. It has one inference request for each concurrent call.

    Args:
        graph: the graph to load.
        threads: threads per call; None lets the runtime choose, within `processor_limit`.
        streams: maximum number of concurrent calls, each on its own threads; None lets the runtime choose. OpenVINO makes at
            most one stream per core.

    Raises:
        BackendError: OpenVINO can't load the graph.
    """

    def __init__(self, graph: BundleGraph, threads: int | None = None, streams: int | None = None) -> None:
        # On CPUs with bfloat16, OpenVINO's default precision would change the routing.
        # Where activations are multiplied by int4 weights, OpenVINO would by default also round the activations to int8, in
        # groups that it chooses itself. A group size of 0 turns this rounding off.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        # INFERENCE_NUM_THREADS is the total number of threads over all streams.
        if (count := processor_limit() if threads is None else threads * (streams or 1)) is not None:
            settings["INFERENCE_NUM_THREADS"] = count
        if streams is not None:
            settings["NUM_STREAMS"] = streams
        # OpenVINO finds external weights only if it reads the graph from a file next to them. If somebody replaces that
        # file while OpenVINO reads it, the bundle's check after loading detects the change.
        file = Path(graph.folder, graph.path.name)
        try:
            # If the file is not valid ONNX, Core.read_model would try to read it in every other format that it supports.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(file)))
            self._model = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:
            raise BackendError(f"OpenVINO can't load {graph.path}: {_reason(error)}") from None
        self.description = _DESCRIPTION
        if streams is not None:
            made = self._model.get_property("NUM_STREAMS")
            self.description += f", {made} stream{'s' * (made != 1)}"
        check_interface(graph, _named(model.inputs), _named(model.outputs))
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Run the graph on `feeds` and return the arrays of `outputs`.

        `feeds` contains arrays by input name. This method is safe to call from many threads.

        Raises:
            BackendError: the runtime failed.
        """
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._model.create_infer_request()
        try:
            request.infer(feeds)
            # Copy the outputs, because the next call with this request overwrites the memory that holds them.
            results = [np.array(request.get_tensor(name).data) for name in outputs]
        except Exception as error:
            raise BackendError(f"OpenVINO failed: {_reason(error)}") from None
        self._idle.put(request)
        return results


def prepare(bundle: Bundle, _profile: Profile | None, cpu: Parallelism) -> PreparedBackend:
    """Prepare the inlined graph of a bundle.

    Raises:
        UnavailableError: the installed OpenVINO is older than the oldest supported version.
        UnsuitedError: the routing groups are so large that their sort keys don't fit into OpenVINO's integers.
    """
    if too_old("openvino", openvino.__version__):
        oldest = oldest_supported("openvino")
        raise UnavailableError(f"OpenVINO {openvino.__version__} is too old; run pip install 'openvino>={oldest}'")
    rules = bundle.manifest.rules
    # Soft MoE sorts nothing, so its groups may have any size.
    if rules.kind != "soft" and rules.group_tokens > _MAX_GROUP_TOKENS:
        raise UnsuitedError(
            f"OpenVINO routes groups of up to {_MAX_GROUP_TOKENS} tokens exactly, and this bundle's have "
            f"{rules.group_tokens}; use backend 'onnxruntime'"
        )

    def load(graph: BundleGraph) -> Backend:
        return OpenVinoBackend(graph, cpu.threads, cpu.streams)

    return PreparedBackend(_DESCRIPTION, partial(StandardBackend, bundle, load), cpu)


def _named(ports: Iterable[Any]) -> dict[str, Port]:
    """Return a model's inputs or outputs as `Port`s by name."""
    found = {}
    for port in ports:
        shape = port.get_partial_shape()
        known = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
        found[port.get_any_name()] = Port(port.get_element_type().to_dtype().name, known)
    return found


def _reason(error: Exception) -> str:
    """Return the last line of an OpenVINO error, which gives the reason.

    The earlier lines only contain locations in OpenVINO's source.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].strip()
