"""Run a written graph one part at a time. Only one part of the model is in memory at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, utils

from vmoe_export.graphs.graph_files import WrittenGraph
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.limits import invalid
from vmoe_export.validation.reference_model import Array, Stream
from vmoe_export.validation.short_emulation import emulate_short
from vmoe_runtime.backends.onnxruntime_cpu import first_line
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT
from vmoe_runtime.op_library import usable_library
from vmoe_runtime.profiles import Profile

PartRun = Callable[[Stream, Array, Profile | None], tuple[Stream, list[Array]]]
"""Runs a part on a stream, its images and a profile. Returns the next stream, or the model's output, and the routes."""


class GraphParts:
    """A graph that is split into `model.parts` at its cuts in the residual stream.

    Args:
        folder: the folder of the graph and of its weights.
        graph: a graph from `write_graphs` or `write_tensorrt_graphs`.
        model: the model that the graph computes.
        emulate: whether to compute float16 and bfloat16 operations in float32 and round every result, because CPUs lack
            these types.
    """

    def __init__(self, folder: Path, graph: WrittenGraph, model: ExportedModel, *, emulate: bool = False) -> None:
        self.written = graph
        self._folder, self._model = folder, model
        whole = onnx.load(folder / graph.file, load_external_data=False)
        self._proto = emulate_short(whole) if emulate else whole
        self._proto.graph.value_info.extend(info for cut in graph.cuts for info in _stream_infos(cut))
        # Use the op library if it is available, in the same way that an engine uses it.
        self._library = usable_library()[0] if graph.file == CANONICAL_GRAPH else None

    def load(self, part: str) -> PartRun:
        """Load one part into its own ONNX Runtime session, and return a function that runs it."""
        number, name = self._model.parts.index(part), f"{part} of {self.written.file}"
        start = self.written.cuts[number - 1] if number else (IMAGE_INPUT,)
        block, _, what = part.rpartition("/")
        end = self.written.cuts[number] if number < len(self.written.cuts) else (self._model.output,)
        routes = [v.name for v in self._proto.graph.output if what == "Moe" and v.name.startswith(f"{block}/")]
        path = self._folder / "part.onnx"  # in the folder of the weights file, because the part refers to that file
        try:
            cut = self._cut(start, [name for name in dict.fromkeys((*end, *routes)) if name not in start])
            path.write_bytes(cut.SerializeToString())
            takes = {value.name for value in cut.graph.input}
            session = _session(path, self._library)
        except Exception as error:  # ONNX Runtime raises many types of exceptions
            raise invalid(f"ONNX Runtime can't run {name}: {first_line(error)}") from None
        finally:
            path.unlink(missing_ok=True)

        def run(stream: Stream, images: Array, profile: Profile | None) -> tuple[Stream, list[Array]]:
            values = [values for values in (stream.x, stream.sizes, stream.token, stream.coordinates) if values is not None]
            given = dict(zip(start, values, strict=False))
            feeds = {IMAGE_INPUT: images, **(profile.inputs if profile else {}), **given}
            outputs = [output.name for output in session.get_outputs()]
            try:
                made = session.run(outputs, {name: array for name, array in feeds.items() if name in takes})
            except Exception as error:
                raise invalid(f"ONNX Runtime can't run {name}: {first_line(error)}") from None
            # Copy the arrays, because the runtime's own arrays would keep the memory of the whole session alive.
            found = given | dict(zip(outputs, map(np.array, made), strict=True))
            return Stream(*(found[name] for name in end)), [found[name] for name in routes]

        return run

    def _cut(self, start: Sequence[str], ends: list[str]) -> onnx.ModelProto:
        """Return a model with only those nodes that compute `ends` from `start` and the graph's inputs."""
        given = (value.name for value in self._proto.graph.input)
        cut = utils.Extractor(self._proto).extract_model([*dict.fromkeys((*start, *given))], ends)
        used = {*start, *(name for node in cut.graph.node for name in node.input)}
        for value in [value for value in cut.graph.input if value.name not in used]:
            cut.graph.input.remove(value)
        del cut.graph.value_info[:]
        return cut


def _stream_infos(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    """Declare the values of a stream. They are x and, if tokens are merged, sizes, token and coordinates."""
    rows = ("rows", "tokens")
    kinds = (
        (onnx.TensorProto.FLOAT, (*rows, "width")),
        (onnx.TensorProto.FLOAT, rows),
        (onnx.TensorProto.INT32, ("rows", "all")),
        (onnx.TensorProto.FLOAT, (*rows, "axes")),
    )
    return [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, kinds, strict=False)]


def _session(path: Path, library: Path | None) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session that keeps no second copy of the weights.

    The session does not pack the weights, and does not cast them in advance.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.add_session_config_entry("session.disable_prepacking", "1")
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
