"""Plants faults in exported bundles, one at a time, and has validation judge the part of the model that each is in.

    python tests/support/planted_faults.py CKPT --precision int8 --count 40 --config model.json

In the weights file a weight, a scale or a bias changes, or two experts change places; in a graph an initializer points to
another tensor of its shape, or a bias is zero. Prints what was missed, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import numpy_helper

from vmoe_export import open_checkpoint
from vmoe_export.bundle.weights_file import Span, write_weights
from vmoe_export.errors import ExportError
from vmoe_export.export_options import ExportOptions
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.graphs.graph_files import write_graphs
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.graph_parts import GraphParts
from vmoe_export.validation.limits import graph_limits
from vmoe_export.validation.part_validation import PartValidation
from vmoe_export.validation.reference_model import ReferenceModel, Stream
from vmoe_export.validation.reference_run import Step, validation_images, with_every_expert
from vmoe_export.validation.reference_weights import check_stored_weights, stored_weights

FILE_FAULTS = ("weight", "experts", "scale", "bias")
GRAPH_FAULTS = ("graph weight", "graph experts", "graph scale", "graph bias")


@dataclass
class Planted:
    """A bundle without a manifest, whose weights and graphs are there to be damaged."""

    folder: Path
    plan: ExportPlan
    model: ExportedModel
    spans: dict[str, Span]
    graphs: list[GraphParts]
    rng: np.random.Generator

    @classmethod
    def of(cls, folder: Path, plan: ExportPlan, seed: int) -> Planted:
        """Writes weights and graphs."""
        model = ExportedModel(plan.model, plan.grouping.tokens, plan.output, precision=plan.stored_precision)
        weights = folder / "weights.safetensors"
        spans = write_weights(weights, plan.checkpoint, plan.model, plan.weight_shapes, precision=plan.stored_precision)
        graphs = write_graphs(folder, model, plan.grouping, spans, plan.profiles)
        parts = [GraphParts(folder, graph, model) for graph in graphs]
        return cls(folder, plan, model, spans, parts, np.random.default_rng(seed))

    def judge(self, part: str) -> str:
        """What validation says of one part: "" or its sentence."""
        block, _, what = part.rpartition("/")
        own = {name: span for name, span in self.spans.items() if f"Encoder/{block}/{what}/" in name}
        weights = self.folder / "weights.safetensors"
        try:
            check_stored_weights(weights, own, self.plan.checkpoint, self.plan.model)
            images = validation_images(self.model, self.plan.grouping.batch_multiple, 2)
            profiles = self.plan.profiles[:1]
            config = self.model.config
            before = self.model.parts[self.model.parts.index(part) - 1]
            tokens = 1 if before in self.model.class_token_parts else config.num_tokens
            x = self.rng.standard_normal((len(images), tokens, config.hidden_size), np.float32)
            reference = ReferenceModel(self.model, stored_weights(weights, self.spans))
            stream = Stream(x)
            if self.model.merges:
                tokens = np.arange(config.num_tokens, dtype=np.int32)
                stream = Stream(x, np.ones(x.shape[:2], np.float32), np.tile(tokens, (len(x), 1)))
            y, routes = reference.run(part, stream, [(len(images), profile) for profile in profiles or (None,)])
            limits = graph_limits(self.model, None)
            validation = PartValidation(self.model, [(graph, limits) for graph in self.graphs], profiles, images)
            for watch in validation._watched:
                watch.own = stream
            steps = [Step(stream, y, *routes)]
            validation.compare(part, with_every_expert(reference, part, steps, profiles or (None,)))
        except ExportError as error:
            return str(error)
        return ""

    def a_part(self, *kinds: str) -> str:
        """A random part of one of the kinds."""
        parts = [part for part in self.model.parts if part.endswith(kinds)]
        return str(self.rng.choice(parts))

    def a_tensor(self, part: str, *leaves: str) -> str:
        """A random tensor of a part with one of these endings."""
        block, _, what = part.rpartition("/")
        names = [name for name in self.spans if f"Encoder/{block}/{what}/" in name and name.endswith(leaves)]
        return str(self.rng.choice(sorted(names)))

    @contextmanager
    def changed_file(self, name: str, change: Any) -> Iterator[None]:
        """A tensor of the weights file, changed by a function of its values and put back."""
        span = self.spans[name]
        data = np.memmap(self.folder / "weights.safetensors", np.uint8, "r+", span.offset, span.length)
        before = np.array(data)
        values = stored_weights(self.folder / "weights.safetensors", {name: span})(name)
        after = np.array(values)
        change(after)
        try:
            data[:] = after.reshape(-1).view(np.uint8)
            data.flush()
            yield
        finally:
            data[:] = before
            data.flush()

    @contextmanager
    def changed_graphs(self, change: Any) -> Iterator[None]:
        """The graphs with some initializers changed."""
        before = [
            [onnx.TensorProto.FromString(t.SerializeToString()) for t in g._proto.graph.initializer] for g in self.graphs
        ]
        try:
            for graph in self.graphs:
                change({tensor.name: tensor for tensor in graph._proto.graph.initializer})
            yield
        finally:
            for graph, old in zip(self.graphs, before, strict=True):
                del graph._proto.graph.initializer[:]
                graph._proto.graph.initializer.extend(old)

    def plant(self, fault: str) -> tuple[str, str]:
        """Plants one fault and has it judged: the part, and what validation says."""
        kinds = ("Moe",) if "experts" in fault else ("SelfAttention", "Mlp", "Moe")
        part = self.a_part(*kinds)
        context: Any
        if fault in FILE_FAULTS:
            leaves = {"weight": ("/kernel",), "experts": ("Dense_0/kernel", "Dense_1/kernel"), "bias": ("/bias",)}
            has_scales = any(name.endswith("kernel_scale") for name in self.spans)
            leaf = leaves.get(fault, ("kernel_scale",) if has_scales else ("/kernel",))
            context = self.changed_file(self.a_tensor(part, *leaf), getattr(self, f"_{fault}"))
        else:
            context = self.changed_graphs(self._graph_change(fault, part))
        with context:
            return part, self.judge(part)

    def _weight(self, values: Any) -> None:
        at = tuple(self.rng.integers(size) for size in values.shape)
        if values.dtype == np.int8:
            values[at] += 1 if values[at] < 0 else -1  # one step
        else:
            bits = values.view(np.uint32 if values.dtype == np.float32 else np.uint16)
            bits[at] ^= 1  # the next number

    def _scale(self, values: Any) -> None:
        self._weight(values)

    def _experts(self, values: Any) -> None:
        one, other = self.rng.choice(len(values), 2, replace=False)
        values[[one, other]] = values[[other, one]]

    def _bias(self, values: Any) -> None:
        values[...] = 0

    def _graph_change(self, fault: str, part: str) -> Any:
        block, _, what = part.rpartition("/")
        own = f"Encoder/{block}/{what}/"
        if fault == "graph bias":
            name = self.a_tensor(part, "query/bias", "value/bias", "out/bias", "Dense_0/bias", "Dense_1/bias")
            return lambda tensors: _each_part(tensors, name, _zeroed)
        if fault == "graph experts":
            one, other = self.rng.choice(self.model.config.moe.num_experts, 2, replace=False)  # type: ignore[union-attr]
            kernel = self.a_tensor(part, "Dense_0/kernel")

            def swap(tensors: dict[str, onnx.TensorProto]) -> None:
                if f"{kernel}/{one}" in tensors:
                    _swap_places(tensors[f"{kernel}/{one}"], tensors[f"{kernel}/{other}"])

            return swap
        leaf = "kernel_scale" if fault == "graph scale" and self.model.precision == "int8" else "/kernel"
        name = self.a_tensor(part, leaf)
        same = [
            other
            for other, span in self.spans.items()
            if other != name
            and other.endswith(leaf)
            and (span.shape, span.dtype) == (self.spans[name].shape, self.spans[name].dtype)
        ]
        if not same:
            return lambda tensors: _each_part(tensors, own + "Dense_0/bias", _zeroed)
        other = str(self.rng.choice(same))
        delta = self.spans[other].offset - self.spans[name].offset
        return lambda tensors: _each_part(tensors, name, lambda tensor: _move(tensor, delta))


def _each_part(tensors: dict[str, onnx.TensorProto], name: str, change: Any) -> None:
    for key, tensor in tensors.items():
        if key == name or key.startswith(f"{name}/"):
            change(tensor)


def _zeroed(tensor: onnx.TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))


def _move(tensor: onnx.TensorProto, delta: int) -> None:
    for entry in tensor.external_data:
        if entry.key == "offset":
            entry.value = str(int(entry.value) + delta)


def _swap_places(one: onnx.TensorProto, other: onnx.TensorProto) -> None:
    places = [[(e.key, e.value) for e in tensor.external_data] for tensor in (one, other)]
    for tensor, place in zip((one, other), reversed(places), strict=True):
        for entry, (_, value) in zip(tensor.external_data, place, strict=True):
            entry.value = value


def run(checkpoint: Path, folder: Path, count: int, seed: int, **options: Any) -> dict[str, Any]:
    """Plants faults, and judges a sound part before and after: how many of each kind, what was missed or wrongly refused."""
    with open_checkpoint(checkpoint) as opened:
        planted = Planted.of(folder, plan_export(opened, ExportOptions(**options)), seed)
        kinds = [*FILE_FAULTS, *GRAPH_FAULTS]
        if planted.model.config.moe is None:
            kinds = [kind for kind in kinds if "experts" not in kind]
        planned = [kinds[number % len(kinds)] for number in range(count)]
        judged = [(fault, *planted.plant(fault)) for fault in planned]
        sound = [planted.judge(planted.a_part("SelfAttention", "Mlp", "Moe")) for _ in range(4)]
    return {
        "planted": Counter(planned),
        "missed": [f"{fault} in {part}" for fault, part, sentence in judged if not sentence],
        "refused without a fault": [sentence for sentence in sound if sentence],
    }


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--precision", default="fp32")
@click.option("--count", default=40)
@click.option("--seed", default=1)
@click.option("--config", type=click.Path(path_type=Path))
def main(checkpoint: Path, count: int, seed: int, **options: Any) -> None:
    """Plant COUNT faults in an export of CHECKPOINT."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        report = run(checkpoint, Path(folder), count, seed, **options)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["missed"] or report["refused without a fault"]))


if __name__ == "__main__":
    main()
