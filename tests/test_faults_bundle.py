"""A bundle that is damaged, changed after export, or made to do harm is refused before any runtime sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from damaged_files import (
    Build,
    Edit,
    Faults,
    assert_one_sentence,
    copied_bundle,
    drop,
    edited_graph,
    external_tensor,
    put,
)

from vmoe_runtime import BundleError, Engine

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
CANONICAL, INLINED = "model.onnx", "model.inlined.onnx"
FAULTS = Faults()


def refused(bundle: Path, *names: str, **options: Any) -> None:
    with pytest.raises(BundleError) as refusal:
        Engine.load(bundle, **options)
    assert_one_sentence(str(refusal.value), bundle.name, *names)


def changed_after_export(bundle: Path, name: str) -> Path:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    return bundle


@FAULTS.naming(WEIGHTS, "changed after export")
def weights_with_one_bit_changed(bundle: Path) -> Path:
    return changed_after_export(bundle, WEIGHTS)


@FAULTS.naming(CANONICAL, "changed after export")
def graph_with_one_bit_changed(bundle: Path) -> Path:
    return changed_after_export(bundle, CANONICAL)


@FAULTS.naming(WEIGHTS, "bytes")
def weights_cut_short(bundle: Path) -> Path:
    os.truncate(bundle / WEIGHTS, 1000)
    return bundle


@FAULTS.naming(INLINED)
def graph_that_is_missing(bundle: Path) -> Path:
    (bundle / INLINED).unlink()
    return bundle


@FAULTS.naming(WEIGHTS, "link")
def weights_behind_a_link(bundle: Path) -> Path:
    (bundle / WEIGHTS).rename(bundle.parent / "outside")
    (bundle / WEIGHTS).symlink_to(bundle.parent / "outside")
    return bundle


@FAULTS.naming(MANIFEST, "link")
def manifest_behind_a_link(bundle: Path) -> Path:
    (bundle / MANIFEST).rename(bundle.parent / "outside")
    (bundle / MANIFEST).symlink_to(bundle.parent / "outside")
    return bundle


@FAULTS.naming(MANIFEST, "pipe")
def manifest_that_is_a_pipe(bundle: Path) -> Path:
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)
    return bundle


@FAULTS.naming(CANONICAL, "folder")
def graph_that_is_a_folder(bundle: Path) -> Path:
    (bundle / CANONICAL).unlink()
    (bundle / CANONICAL).mkdir()
    return bundle


@FAULTS.naming(MANIFEST)
def manifest_that_is_missing(bundle: Path) -> Path:
    (bundle / MANIFEST).unlink()
    return bundle


@pytest.mark.parametrize(("damage", "names"), FAULTS)
def test_engine_refuses(damage: Build, names: tuple[str, ...], mnist_bundle: Path, tmp_path: Path) -> None:
    refused(damage(copied_bundle(mnist_bundle, tmp_path / "x.vmoe")), *names)


def test_size_and_links_are_checked_without_verify_too(mnist_bundle: Path, tmp_path: Path) -> None:
    refused(weights_cut_short(copied_bundle(mnist_bundle, tmp_path / "x.vmoe")), WEIGHTS, verify=False)
    refused(weights_behind_a_link(copied_bundle(mnist_bundle, tmp_path / "y.vmoe")), WEIGHTS, verify=False)


@pytest.mark.parametrize("name", ["absent.vmoe", "x" * 300], ids=["not there", "too long"])
def test_engine_refuses_a_path(name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, "not a bundle")


def test_engine_refuses_a_file_in_place_of_a_bundle(mnist_bundle: Path) -> None:
    refused(mnist_bundle / WEIGHTS, "not a bundle")


MANIFEST_TEXTS = {
    "nothing": b"",
    "a list": b"[]",
    "half an object": b'{"format": "vmoe-bundle", ',
    "bytes that are no text": b"\xff\xfe\x00",
    "100,000 nested lists": b"[" * 100_000,
    "a number of 5000 digits": b'{"format": "vmoe-bundle", "format_version": ' + b"1" * 5000 + b"}",
    "a pickle": b"\x80\x04]\x94.",
    "17 MiB of spaces": b" " * (17 << 20),
}


@pytest.mark.parametrize("text", MANIFEST_TEXTS.values(), ids=MANIFEST_TEXTS)
def test_engine_refuses_a_manifest_that_is(text: bytes, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    (bundle / MANIFEST).write_bytes(text)
    refused(bundle, MANIFEST)


def file_entry(name: str) -> Edit:
    """Lists one more file under that name."""
    return lambda manifest: manifest["files"].update({name: manifest["files"][WEIGHTS]})


def put_both(*fields: tuple[str, Any]) -> Edit:
    """Sets several fields."""
    edits = [put(path, value) for path, value in fields]
    return lambda manifest: [edit(manifest) for edit in edits]


MANIFEST_EDITS: dict[str, tuple[Edit, str]] = {
    "of another format": (put("format", "onnx-bundle"), MANIFEST),
    "of a newer format": (put("format_version", 3), "format version 3"),
    "of format version 0": (put("format_version", 0), "format_version"),
    "whose version is text": (put("format_version", "1"), "'format_version'"),
    "without files": (drop("files"), "'files'"),
    "without weights": (drop(f"files/{WEIGHTS}"), WEIGHTS),
    "without a SHA-256": (drop(f"files/{WEIGHTS}/sha256"), "'sha256'"),
    "without input": (drop("input"), "'input'"),
    "without batch_multiple": (drop("batch_multiple"), "'batch_multiple'"),
    "with a batch_multiple of 0": (put("batch_multiple", 0), "'batch_multiple'"),
    "with a fractional batch_multiple": (put("batch_multiple", 1.5), "'batch_multiple'"),
    "with an image height of 1e18": (put("input/height", 10**18), "'height'"),
    "with a height that is true": (put("input/height", True), "'height'"),
    "with an unknown input dtype": (put("input/dtype", "object"), "'dtype'"),
    "with an unknown output": (put("output/name", "boxes"), "'name'"),
    "with output size text": (put("output/size", "ten"), "'size'"),
    "with too few class names": (put("class_names", ["zero"]), "class_names"),
    "with class names that are numbers": (put("class_names", list(range(10))), "class_names"),
    "with an unknown precision": (put("precision", "int4"), "'precision'"),
    "with a precision that is no text": (put("precision", ["bf16"]), "'precision'"),
    "with the precision of TensorRT graphs": (put("precision", "fp16"), "'precision'"),
    "with a precision that is null": (put("precision", None), "'precision'"),
    "with a precision that is a number": (put("precision", 8), "'precision'"),
    "of version 1 in int8": (put_both(("format_version", 1), ("precision", "int8")), "'int8'"),
    "of version 1 with experts in bfloat16": (put_both(("format_version", 1), ("precision", "bf16-experts")), "'precision'"),
    "whose version is a fraction": (put("format_version", 2.5), "'format_version'"),
    "with no experts": (put("routing/num_experts", 0), "'num_experts'"),
    "with an unknown rounding": (put("routing/rounding", "down"), "'rounding'"),
    "with layers that are paths": (put("routing/layers", ["../x"]), "'layers'"),
    "with other experts than its profiles": (put("routing/num_experts", 4), "profile"),
    "that is dense with profiles": (put("routing", None), "profiles"),
    "without profiles": (put("profiles", []), "profile"),
    "with a profile that is text": (put("profiles/0", "c0.1-k1"), "profiles"),
    "with a profile that contradicts its capacity": (put("profiles/0/capacity", [99] * 5), "[99, 99,"),
    "with a profile for fewer layers": (put("profiles/0/capacity", [10]), "'c0.1-k1'"),
    "with a profile of another name": (put("profiles/0/name", "fast"), "'fast'"),
    "with a profile name of two lines": (put("profiles/0/name", "fast\ner"), "profile"),
    "with a profile of k above the experts": (put("profiles/0/k", 9), "'c0.1-k1'"),
    "with a profile of k 0": (put("profiles/0/k", 0), "'k'"),
    "with a profile of capacity 0": (put("profiles/0/capacity_ratio", 0), "'c0.1-k1'"),
    "with a profile of infinite capacity": (put("profiles/0/capacity_ratio", float("inf")), "'c0.1-k1'"),
    "with a profile of capacity NaN": (put("profiles/0/capacity_ratio", float("nan")), "'c0.1-k1'"),
    "with a profile whose bpr is a number": (put("profiles/0/bpr", 1), "'bpr'"),
    "with the same profile twice": (lambda m: m["profiles"].append(m["profiles"][0]), "'c0.1-k1'"),
    "with '..' in a file name": (file_entry("../secret"), "'../secret'"),
    "with an absolute file name": (file_entry("/etc/passwd"), "'/etc/passwd'"),
    "with a hidden file": (file_entry(".ssh"), "'.ssh'"),
    "with a file name of two lines": (file_entry("a\nb"), "file name"),
    "that lists itself": (file_entry(MANIFEST), MANIFEST),
    "with a file that is not there": (file_entry("extra.bin"), "extra.bin"),
}


@pytest.mark.parametrize(("edit", "name"), MANIFEST_EDITS.values(), ids=MANIFEST_EDITS)
def test_engine_refuses_a_manifest(edit: Edit, name: str, mnist_bundle: Path, tmp_path: Path) -> None:
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", edit), name)


# The graphs below come with SHA-256s that are right, as someone with bad intent would write them.

LOCATIONS: dict[str, tuple[dict[str, str], str]] = {
    "above the bundle": ({"location": "../x"}, "'../x'"),
    "at an absolute path": ({"location": "/etc/passwd"}, "'/etc/passwd'"),
    "in another file of the bundle": ({"location": MANIFEST}, MANIFEST),
    "behind a detour": ({"location": f"./{WEIGHTS}"}, f"./{WEIGHTS}"),
    "at a memory address": ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096"}, "_ORT_MEM_ADDR_"),
    "in a file without a name": ({"location": ""}, "''"),
    "on two lines": ({"location": "a\nb"}, "reads"),
    "past the end": ({"offset": str(2**40)}, "past the end"),
    "over the end": ({"length": str(2**40)}, "past the end"),
    "before the start": ({"offset": "-4"}, "'-4'"),
    "at an offset with underscores": ({"offset": "1_0"}, "'1_0'"),
    "at an offset that is text": ({"offset": "start"}, "'start'"),
}


@pytest.mark.parametrize("graph", [CANONICAL, INLINED])
@pytest.mark.parametrize(("entries", "name"), LOCATIONS.values(), ids=LOCATIONS)
def test_engine_refuses_a_graph_with_data(
    entries: dict[str, str], name: str, graph: str, mnist_bundle: Path, tmp_path: Path
) -> None:
    data = edited_graph(mnist_bundle, lambda model: model.graph.initializer.append(external_tensor(**entries)), graph)
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={graph: data}), graph, name)


def in_a_node(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


def in_a_list_of_tensors(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="values", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(tensor)


def in_a_subgraph(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    branch = onnx.helper.make_graph([], "branch", [], [], [tensor])
    model.graph.node.append(onnx.helper.make_node("If", ["image"], ["hidden"], then_branch=branch))


def in_a_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    function = model.functions.add(name="hidden", domain="vmoe")
    function.node.append(onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


def in_a_functions_default(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    function = model.functions.add(name="hidden", domain="vmoe")
    function.attribute_proto.append(onnx.helper.make_attribute("value", tensor))


def in_a_sparse_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_training_info(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


HIDING_PLACES = [
    in_a_node, in_a_list_of_tensors, in_a_subgraph, in_a_function, in_a_functions_default, in_a_sparse_initializer,
    in_training_info,
]  # fmt: skip


@pytest.mark.parametrize("hide", HIDING_PLACES, ids=lambda hide: hide.__name__.replace("_", " "))
def test_engine_finds_a_path_out_of_the_bundle(
    hide: Callable[[onnx.ModelProto, onnx.TensorProto], None], mnist_bundle: Path, tmp_path: Path
) -> None:
    data = edited_graph(mnist_bundle, lambda model: hide(model, external_tensor(location="../x")))
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}), INLINED, "'../x'")


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def test_a_field_number_that_runtimes_read_otherwise_is_no_hiding_place(mnist_bundle: Path, tmp_path: Path) -> None:
    tensor = external_tensor()
    del tensor.external_data[:]
    entry = onnx.StringStringEntryProto(key="location", value="../x").SerializeToString()
    # Protobuf takes the low 32 bits of a field's tag, and so reads this as external_data.
    tag = _varint(13 << 3 | 2 | 1 << 32)
    hidden = tensor.SerializeToString() + tag + _varint(len(entry)) + entry
    data = (mnist_bundle / INLINED).read_bytes() + field(7, field(5, hidden))
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}), INLINED, "29 bits")


def test_a_tensor_with_two_locations_is_refused(mnist_bundle: Path, tmp_path: Path) -> None:
    tensor = external_tensor(location="../x")
    tensor.external_data.add(key="location", value=WEIGHTS)
    data = edited_graph(mnist_bundle, lambda model: model.graph.initializer.append(tensor))
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}), INLINED)


GRAPH_BYTES = {
    "text": b"this is no graph",
    "a graph nested 10,000 levels deep": None,
    "a group": b"\x3b\x3c",
    "a field longer than the file": field(7, b"x" * 100)[:50],
    "an endless number": b"\xff" * 50,
}


@pytest.mark.parametrize("data", GRAPH_BYTES.values(), ids=GRAPH_BYTES)
def test_engine_refuses_a_graph_that_is(data: bytes | None, mnist_bundle: Path, tmp_path: Path) -> None:
    if data is None:
        data = b""
        for _ in range(10_000):  # a graph in an attribute of a node of a graph
            data = field(1, field(5, field(6, data)))
        data = field(7, data)
    refused(copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}), INLINED)
