"""Changes that turn a test bundle into another good bundle or into a bad one. The lists of test cases use them."""

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
    """A change to a copy of a test bundle, and whether readers must accept or refuse the changed copy."""

    name: str
    change: Change
    good: bool
    words: tuple[str, ...] = ()
    base: str = "v3-plain"

    def build(self, folder: Path) -> Path:
        """Write the changed bundle to `folder` as `x.vmoe`, and return its path."""
        shutil.copytree(BUNDLES / self.base, folder / "x.vmoe")
        self.change(folder / "x.vmoe")
        return folder / "x.vmoe"


class Cases(list[Case]):
    """A growing list of cases."""

    def good(self, name: str, change: Change, base: str = "v3-plain") -> None:
        """Add a case: a change to the bundle `base` that readers must accept."""
        self.append(Case(name, change, good=True, base=base))

    def bad(self, name: str, change: Change, *words: str, base: str = "v3-plain") -> None:
        """Add a case: a change to the bundle `base` that readers must refuse with a message that contains all of `words`."""
        self.append(Case(name, change, good=False, words=words, base=base))

    def bad_values(self, path: str, values: Sequence[object], *words: str, base: str = "v3-plain") -> None:
        """Add one bad case for each of `values`. The change puts the value into the manifest field `path`.

        Readers must refuse each bundle with a message that contains all of `words`.
        """
        for value in values:
            self.bad(f"{path} {value!r:.60}", says(put(path, value)), *words, base=base)


def says(*edits: Edit) -> Change:
    """Return a change that applies `edits` to the manifest."""

    def change(bundle: Path) -> None:
        content = json.loads((bundle / MANIFEST).read_bytes())
        for edit in edits:
            edit(content)
        (bundle / MANIFEST).write_text(json.dumps(content))

    return change


def steps(text: object) -> Change:
    """Return a change that replaces the preprocessing steps in the manifest by `text`."""
    return says(put("preprocessing", {"steps": text}))


def text(data: bytes) -> Change:
    """Return a change that replaces the whole manifest by `data`."""
    return lambda bundle: (bundle / MANIFEST).write_bytes(data)


def swap(old: bytes, new: bytes) -> Change:
    """Return a change that replaces the first occurrence of `old` in the manifest by `new`."""

    def change(bundle: Path) -> None:
        data = (bundle / MANIFEST).read_bytes()
        assert data.count(old) >= 1, old
        (bundle / MANIFEST).write_bytes(data.replace(old, new, 1))

    return change


def field(value: bytes) -> Change:
    """Return a change that adds an unknown field with this value to the manifest. Readers ignore such a field."""
    return swap(b"{", b'{"more": ' + value + b", ")


def holds(name: str, data: bytes) -> Change:
    """Return a change that replaces a file's content with `data`.

    The change also updates the file's SHA-256 and size in the manifest, as an attacker would.
    """

    def change(bundle: Path) -> None:
        (bundle / name).write_bytes(data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        says(lambda content: content["files"].update({name: record}))(bundle)

    return change


def graph(edit: Edit, name: str = CANONICAL) -> Change:
    """Change a graph's ModelProto."""
    return lambda bundle: holds(name, edited_graph(bundle, edit, name))(bundle)


def appended(data: bytes, name: str = INLINED) -> Change:
    """Return a change that appends `data` to a graph. A parser reads the added bytes as further fields of the model."""
    return lambda bundle: holds(name, (bundle / name).read_bytes() + data)(bundle)


def both(*changes: Change) -> Change:
    def change(bundle: Path) -> None:
        for one in changes:
            one(bundle)

    return change


def nothing(bundle: Path) -> None:
    """Change nothing."""


def listed(name: str) -> Change:
    """Return a change that adds the file `name` to the manifest, with the SHA-256 and size of the weights file."""
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
    """Return a change that adds a weight with external data to the graph `name`.

    `entries` specify where the external data is.
    """
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
    """Encode a length-delimited protobuf field.

    `bits` are added to the field's tag. Runtimes ignore all bits of a tag above the 32nd.
    """
    return varint(number << 3 | 2 | bits) + varint(len(payload)) + payload


def nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):  # nest a graph in a node attribute
        data = chunk(1, chunk(5, chunk(6, data)))
    return chunk(7, data)


def opset(importer: onnx.ModelProto | onnx.FunctionProto, version: int) -> None:
    importer.opset_import[0].version = version


def calling(*calls: str, inside: bool = False) -> Edit:
    """Return an edit that adds functions to a model. Each function calls one other function.

    For example, "ab" adds a function `a` that calls `b`. If `inside` is true, the call is in a branch of an If node.
    """

    def edit(model: onnx.ModelProto) -> None:
        for name, called in calls:
            node = helper.make_node(called, ["x"], ["y"], domain="vmoe")
            branch = helper.make_graph([node], "branch", [], [helper.make_empty_tensor_value_info("y")])
            chosen = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
            body = [chosen if inside else node]
            model.functions.append(helper.make_function("vmoe", name, ["x"], ["y"], body, model.opset_import))

    return edit


def adds(output: str, number: int) -> Edit:
    """Return an edit that adds `number` to an int32 output of the graph.

    Nodes that read this output still get the value without the addition.
    """

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
    """Return an edit that changes the element type or one dimension of the input or output named `name`.

    `dim` is the index of the dimension and its new size.
    """

    def edit(model: onnx.ModelProto) -> None:
        tensor = ports(model)[name].type.tensor_type
        if element is not None:
            tensor.elem_type = element
        if dim is not None:
            tensor.shape.dim[dim[0]].dim_value = dim[1]

    return edit


def without(name: str) -> Edit:
    """Return an edit that removes the input or output named `name`."""

    def edit(model: onnx.ModelProto) -> None:
        values = model.graph.input if any(value.name == name for value in model.graph.input) else model.graph.output
        values.remove(ports(model)[name])

    return edit


def more_input(name: str) -> Edit:
    return lambda model: model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))
