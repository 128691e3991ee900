"""Runs a written graph one part at a time, so that no more than one part of the model is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from vmoe_export.errors import ExportError
from vmoe_export.graphs.graph_files import WrittenGraph
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.bfloat16_emulation import emulate_bfloat16
from vmoe_runtime.backends.onnxruntime_cpu import first_line
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT
from vmoe_runtime.op_library import usable_library
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]


class GraphParts:
    """A graph cut where the residual stream passes from one of `model.parts` to the next.

    Args:
        folder: where the graph lies, and the weights that it points into.
        graph: from `write_graphs` or `write_tensorrt_graphs`.
        model: what it computes.
        emulate_bf16: compute bfloat16 in float32 with every result rounded, where no CPU multiplies it.
    """

    def __init__(self, folder: Path, graph: WrittenGraph, model: ExportedModel, *, emulate_bf16: bool = False) -> None:
        self.written = graph
        self._folder, self._model = folder, model
        whole = onnx.load(folder / graph.file, load_external_data=False)
        self._proto = emulate_bfloat16(whole) if emulate_bf16 else whole
        self._producers = {name: i for i, node in enumerate(self._proto.graph.node) for name in node.output}
        # What an engine runs: with the op library, where it is.
        self._library = usable_library()[0] if graph.file == CANONICAL_GRAPH else None

    def load(self, part: str) -> LoadedPart:
        """One part as a session of its own."""
        number = self._model.parts.index(part)
        start = self.written.cuts[number - 1] if number else IMAGE_INPUT
        block, _, what = part.rpartition("/")
        end = self.written.cuts[number] if number < len(self.written.cuts) else self._model.output
        routes = [v.name for v in self._proto.graph.output if what == "Moe" and v.name.startswith(f"{block}/")]
        path = self._folder / "part.onnx"  # beside the weights, which it points into
        try:
            cut = self._cut(start, [end, *routes])
            path.write_bytes(cut.SerializeToString())
            takes = {value.name for value in cut.graph.input}
            return LoadedPart(f"{part} of {self.written.file}", _session(path, self._library), start, takes, [end, *routes])
        except Exception as error:  # ONNX Runtime raises many kinds
            raise _refused(f"{part} of {self.written.file}", error) from None
        finally:
            path.unlink(missing_ok=True)

    def _cut(self, start: str, ends: list[str]) -> onnx.ModelProto:
        """The nodes between a value and others, as a model."""
        whole = self._proto.graph
        needed, used, open_values = set[int](), {start}, list(ends)
        while open_values:
            name = open_values.pop()
            producer = None if name in used else self._producers.get(name)
            used.add(name)
            if producer is not None and producer not in needed:
                needed.add(producer)
                open_values += whole.node[producer].input
        stream = helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, ["rows", "tokens", "width"])
        cut = onnx.ModelProto()
        cut.CopyFrom(self._proto)
        graph = cut.graph
        del graph.node[:], graph.input[:], graph.output[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(whole.node[i] for i in sorted(needed))
        inputs = [value for value in whole.input if value.name in used]
        graph.input.extend(inputs if start == IMAGE_INPUT else [stream, *inputs])
        graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in used)
        known = {value.name: value for value in (*whole.value_info, *whole.output)}
        graph.output.extend(known.get(name) or onnx.ValueInfoProto(name=name, type=stream.type) for name in ends)
        return cut


class LoadedPart:
    """One part of a graph, ready to run."""

    def __init__(
        self, name: str, session: onnxruntime.InferenceSession, start: str, takes: set[str], outputs: list[str]
    ) -> None:
        self._name, self._session, self._start, self._takes, self._outputs = name, session, start, takes, outputs

    def run(self, x: Array, images: Array, profile: Profile | None) -> list[Array]:
        """What the part makes of x and the images that it comes from: the stream or output, then its routes."""
        settings = profile.inputs if profile else {}
        feeds = {IMAGE_INPUT: images, **settings, self._start: x}
        taken = {name: array for name, array in feeds.items() if name in self._takes}
        try:
            # Copies: the runtime's own arrays would keep the memory of the whole session.
            return [np.array(values) for values in self._session.run(self._outputs, taken)]
        except Exception as error:
            raise _refused(self._name, error) from None


def _refused(what: str, error: Exception) -> ExportError:
    return ExportError(f"validation failed: ONNX Runtime can't run {what}: {first_line(error)}; no bundle was written")


def _session(path: Path, library: Path | None) -> onnxruntime.InferenceSession:
    """A session that keeps no second copy of the weights: neither cast to float32 beforehand, nor packed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.add_session_config_entry("session.disable_prepacking", "1")
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
