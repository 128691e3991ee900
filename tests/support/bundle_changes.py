"""Changes that make good or bad bundles of the kept ones: what the lists of cases are written in."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from damaged_files import Edit, edited_graph, external_tensor, put
from onnx import TensorProto, helper

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
MANIFEST, WEIGHTS, CANONICAL, INLINED = "manifest.json", "weights.safetensors", "model.onnx", "model.inlined.onnx"
TENSORRT = "c0.3-k1.tensorrt.onnx"  # of v3-bf16

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A change to the copy of a kept bundle, and what readers must say of the result."""

    name: str
    change: Change
    good: bool
    words: tuple[str, ...] = ()
    base: str = "v3-plain"

    def build(self, folder: Path) -> Path:
        """The bundle, as `x.vmoe` in the folder."""
        shutil.copytree(BUNDLES / self.base, folder / "x.vmoe")
        self.change(folder / "x.vmoe")
        return folder / "x.vmoe"


class Cases(list[Case]):
    """A list of cases that grows by a line for each."""

    def good(self, name: str, change: Change, base: str = "v3-plain") -> None:
        """One more bundle that readers must take."""
        self.append(Case(name, change, good=True, base=base))

    def bad(self, name: str, change: Change, *words: str, base: str = "v3-plain") -> None:
        """One more bundle that readers must refuse, in a sentence that holds the words."""
        self.append(Case(name, change, good=False, words=words, base=base))

    def bad_values(self, path: str, values: Sequence[object], *words: str, base: str = "v3-plain") -> None:
        """One more bundle that readers must refuse for each value of a field of the manifest."""
        for value in values:
            self.bad(f"{path} {value!r:.60}", says(put(path, value)), *words, base=base)


def says(*edits: Edit) -> Change:
    """Edits of the manifest."""

    def change(bundle: Path) -> None:
        content = json.loads((bundle / MANIFEST).read_bytes())
        for edit in edits:
            edit(content)
        (bundle / MANIFEST).write_text(json.dumps(content))

    return change


def steps(text: object) -> Change:
    """Another text of preprocessing."""
    return says(put("preprocessing", {"steps": text}))


def text(data: bytes) -> Change:
    """Another manifest."""
    return lambda bundle: (bundle / MANIFEST).write_bytes(data)


def swap(old: bytes, new: bytes) -> Change:
    """Bytes of the manifest that become others, once."""

    def change(bundle: Path) -> None:
        data = (bundle / MANIFEST).read_bytes()
        assert data.count(old) >= 1, old
        (bundle / MANIFEST).write_bytes(data.replace(old, new, 1))

    return change


def field(value: bytes) -> Change:
    """One more field of the manifest, which nobody reads."""
    return swap(b"{", b'{"more": ' + value + b", ")


def holds(name: str, data: bytes) -> Change:
    """Another content of a file, with its SHA-256 and size made right, as someone with bad intent would."""

    def change(bundle: Path) -> None:
        (bundle / name).write_bytes(data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        says(lambda content: content["files"].update({name: record}))(bundle)

    return change


def graph(edit: Edit, name: str = CANONICAL) -> Change:
    """A change to a graph's ModelProto."""
    return lambda bundle: holds(name, edited_graph(bundle, edit, name))(bundle)


def appended(data: bytes, name: str = INLINED) -> Change:
    """Bytes behind a graph, as more fields of the model."""
    return lambda bundle: holds(name, (bundle / name).read_bytes() + data)(bundle)


def both(*changes: Change) -> Change:
    def change(bundle: Path) -> None:
        for one in changes:
            one(bundle)

    return change


def nothing(bundle: Path) -> None:
    """As it is."""


def listed(name: str) -> Change:
    """One more name of the weights."""
    return says(lambda content: content["files"].update({name: content["files"][WEIGHTS]}))


def flipped(name: str) -> Change:
    def change(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data)

    return change


def linked(name: str) -> Change:
    def change(bundle: Path) -> None:
        (bundle / name).rename(bundle.parent / name)
        (bundle / name).symlink_to(bundle.parent / name)

    return change


def replaced(name: str, make: Change) -> Change:
    return lambda bundle: ((bundle / name).unlink(), make(bundle / name))


def reads(name: str = INLINED, **entries: str) -> Change:
    """One more weight of the graph, outside."""
    return graph(lambda model: model.graph.initializer.append(external_tensor(**entries)), name)


def outside() -> TensorProto:
    return external_tensor(location="../x")


def hide_in_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=outside()))


def hide_in_list(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(outside())


def hide_in_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [outside()])
    model.graph.node.append(helper.make_node("If", ["image"], ["hidden"], then_branch=branch))


def hide_in_function(model: onnx.ModelProto) -> None:
    function = model.functions.add(name="hidden", domain="vmoe")
    function.node.append(helper.make_node("Constant", [], ["hidden"], value=outside()))


def hide_in_default(model: onnx.ModelProto) -> None:
    model.functions.add(name="hidden", domain="vmoe").attribute_proto.append(helper.make_attribute("value", outside()))


def hide_in_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(outside())


def hide_in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.initializer.append(outside())


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def chunk(number: int, payload: bytes, bits: int = 0) -> bytes:
    """A length-delimited protobuf field; bits above the 32nd of its tag are dropped by runtimes."""
    return varint(number << 3 | 2 | bits) + varint(len(payload)) + payload


def nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):  # a graph in an attribute of a node of a graph
        data = chunk(1, chunk(5, chunk(6, data)))
    return chunk(7, data)


def opset(importer: onnx.ModelProto | onnx.FunctionProto, version: int) -> None:
    importer.opset_import[0].version = version


def calling(*calls: str, inside: bool = False) -> Edit:
    """Functions that call one another: "ab" is a, which calls b, or does in a branch."""

    def edit(model: onnx.ModelProto) -> None:
        for name, called in calls:
            node = helper.make_node(called, ["x"], ["y"], domain="vmoe")
            branch = helper.make_graph([node], "branch", [], [helper.make_empty_tensor_value_info("y")])
            chosen = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
            body = [chosen if inside else node]
            model.functions.append(helper.make_function("vmoe", name, ["x"], ["y"], body, model.opset_import))

    return edit


def adds(output: str, number: int) -> Edit:
    """An output in int32 has that number added, after all others that read it did."""

    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name} before" if name == output else name for name in names]
        model.graph.initializer.append(helper.make_tensor("number", TensorProto.INT32, [], [number]))
        model.graph.node.append(helper.make_node("Add", [f"{output} before", "number"], [output]))

    return edit


def two_locations(model: onnx.ModelProto) -> None:
    tensor = outside()
    tensor.external_data.add(key="location", value=WEIGHTS)
    model.graph.initializer.append(tensor)


def ports(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for value in (*model.graph.input, *model.graph.output)}


def port(name: str, element: int | None = None, dim: tuple[int, int] | None = None) -> Edit:
    """Another element type or extent of an input or output."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = ports(model)[name].type.tensor_type
        if element is not None:
            tensor.elem_type = element
        if dim is not None:
            tensor.shape.dim[dim[0]].dim_value = dim[1]

    return edit


def without(name: str) -> Edit:
    """The input or output of that name is gone."""

    def edit(model: onnx.ModelProto) -> None:
        values = model.graph.input if any(value.name == name for value in model.graph.input) else model.graph.output
        values.remove(ports(model)[name])

    return edit


def more_input(name: str) -> Edit:
    return lambda model: model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))
