"""vmoe-inspect: the card of a bundle as text and as JSON, whatever the bundle says, and what it says of bad ones."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from bundle_changes import BUNDLES, CANONICAL, MANIFEST, WEIGHTS
from damaged_files import assert_one_sentence
from fake_tensorrt import FakeTensorRt
from safetensors import safe_open

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, BundleError, Engine, op_library
from vmoe_runtime.backends import BACKENDS, availability, onnxruntime_cpu, openvino_cpu
from vmoe_runtime.backends.availability import Availability, chosen_by_auto
from vmoe_runtime.backends.tensorrt.engine_cache import EngineRecord, store_engine
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError, UnsuitedError
from vmoe_tools.inspect import machine
from vmoe_tools.inspect.card import make_card
from vmoe_tools.inspect.cli import main
from vmoe_tools.inspect.display import print_card
from vmoe_tools.inspect.tensors import read_tensors

KEPT = (
    "v3-bf16",
    "v3-plain",
    "v3-bf16",
    "v3-dense",
    "v3-plain",
    "v3-int8",
    "v3-choice",
    "v3-ensemble",
    "v3-fp32",
    "v3-soft",
)
KINDS = {"v3-dense": "dense ViT", "v3-choice": "V-MoE of experts choice", "v3-soft": "Soft MoE"}
DIGITS = ("zero", "[/b]one", "two:100:", "three", "four", "five", "six", "seven", "eight", "nine")
HEADS = ["MoE layers", "Input and output", "Profiles, the first is the default", "Validation", "Source", "Files"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[list[str], list[str]]:
    """Lines on standard output and on standard error of a run that ends with that code."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def card(capsys: pytest.CaptureFixture[str], bundle: Path, *arguments: object) -> dict[str, Any]:
    """The card as JSON."""
    lines, complaints = run(capsys, bundle, "-q", "--json", "-", *arguments)
    assert complaints == []
    found: dict[str, Any] = json.loads("\n".join(lines))
    return found


def row(lines: list[str], name: str) -> str:
    """What stands beside a name, on one line."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"  {name} "))
    found = [lines[start].removeprefix(f"  {name}")]
    for line in lines[start + 1 :]:
        if not line.startswith(" " * 16):
            break
        found.append(line)
    return " ".join(" ".join(found).split())


def unspaced(text: str) -> str:
    return "".join(text.split())


def manifest_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / MANIFEST).read_bytes())
    return found


def changed(folder: Path, name: str, **fields: Any) -> Path:
    """A copy of a kept bundle with other fields in its manifest; `...` removes one."""
    target = folder / "changed.vmoe"
    shutil.copytree(BUNDLES / name, target)
    content = {key: value for key, value in {**manifest_of(target), **fields}.items() if value is not ...}
    (target / MANIFEST).write_text(json.dumps(content))
    return target


# Every kept bundle


@pytest.mark.parametrize("name", KEPT)
def test_the_card_says_what_the_manifest_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, raw = card(capsys, BUNDLES / name), manifest_of(BUNDLES / name)
    model, routing = raw["model"], raw["routing"]
    assert (found["bundle"], found["format_version"], found["verified"]) == (str(BUNDLES / name), int(name[1]), False)
    assert found["kind"] == KINDS.get(name, "V-MoE")
    assert found["ensemble_size"] == (2 if name == "v3-ensemble" else 1)
    assert found["model"] == {
        **{key: model[key] for key in ("patch_size", "num_layers", "hidden_size", "num_heads", "mlp_dim")},
        "classifier": "token",
        "num_classes": 7,
        "expert_mlp_dim": model["moe"]["mlp_dim"] if routing else None,
        "dispatch_bf16": model["moe"]["dispatch_bf16"] if routing else None,
    }
    assert found["image"] == {
        **{key: raw["input"][key] for key in ("dtype", "height", "width", "channels")},
        "preprocessing": ["resize(12)"],
    }
    assert (found["output"]["name"], found["output"]["shape"][-1]) == (raw["output"]["name"], raw["output"]["size"])
    assert found["output"]["class_names"] == raw["class_names"]
    assert found["batch_multiple"] == raw["batch_multiple"]
    assert found["precision"] == ("bf16-experts" if name == "v3-bf16" else raw["precision"])
    source, producer = raw["source"], raw["producer"]
    assert found["origin"] == {**source, "producer": producer["name"], "producer_version": producer["version"]}
    assert found["files"] == [{"name": file, **raw["files"][file]} for file in raw["files"]]
    assert found["bytes"] == sum((BUNDLES / name / file).stat().st_size for file in raw["files"])
    assert found["tensorrt"] == raw.get("tensorrt")
    if routing is None:
        assert found["routing"] is None
    else:
        same = ("layers", "num_experts", "group", "group_tokens")
        assert {key: found["routing"][key] for key in same} == {key: routing[key] for key in same}
        for key in ("slots_per_expert", "rounding", "capacity_multiple_of"):
            assert found["routing"][key] == routing.get(key)
        assert found["routing"]["kind"] == routing.get("kind", "top-k")


@pytest.mark.parametrize("name", KEPT)
def test_profiles_have_their_costs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, raw = card(capsys, BUNDLES / name), manifest_of(BUNDLES / name)
    flops = raw["flops_per_image"]
    fields = ("name", "capacity_ratio", "effective_ratio", "k", "bpr", "pool", "max_experts", "capacity")
    assert found["profiles"] == [
        {
            **{field: profile.get(field) for field in fields},
            "flops_per_image": flops[profile["name"]],
            "of_dense": flops[profile["name"]] / flops["dense"],
        }
        for profile in raw["profiles"]
    ]
    assert found["dense_flops_per_image"] == flops["dense"]


@pytest.mark.parametrize("name", KEPT)
def test_tensors_and_parameters_are_those_that_safetensors_reads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = card(capsys, BUNDLES / name)
    stored = BUNDLES / name / WEIGHTS
    types = {"F32": ("float32", 4), "BF16": ("bfloat16", 2), "I8": ("int8", 1)}
    expected, count, idle = {}, 0, 0
    with safe_open(stored, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118  (it is no mapping)
            part = file.get_slice(key)
            size, (dtype, width) = math.prod(part.get_shape()), types[part.get_dtype()]
            expected[key] = {"name": key, "dtype": dtype, "shape": part.get_shape(), "bytes": size * width}
            if not key.endswith("kernel_scale"):
                count += size
                idle += size * 3 // 4 if "/Moe/Mlp/" in key else 0  # one of four experts at k = 1
    assert {tensor["name"]: tensor for tensor in found["tensors"]} == expected
    text = stored.read_bytes()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert [t["name"] for t in found["tensors"]] == sorted(header, key=lambda key: header[key]["data_offsets"])
    per_token = {"v3-choice": None, "v3-soft": count, "v3-dense": count}.get(name, count - idle)
    k = None if name in KINDS else 1
    assert found["parameters"] == {"all": count, "per_token": per_token, "k": k, "tensors": len(expected)}


@pytest.mark.parametrize("name", KEPT)
def test_validation_is_the_worst_of_what_was_compared(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, raw = card(capsys, BUNDLES / name)["validation"], manifest_of(BUNDLES / name)["validation"]
    assert (found["atol"], found["relative_limit"]) == (raw["atol"], raw.get("relative_limit"))
    compared = raw["comparisons"]
    routed = [entry["agreement"] for entry in compared if entry["profile"]]
    assert found["graphs"] == {
        "graphs": [CANONICAL, "model.inlined.onnx"],
        "profiles": list(dict.fromkeys(entry["profile"] for entry in compared if entry["profile"])),
        "images": 2,
        "max_difference": max(entry["max_difference"] for entry in compared),
        "relative_difference": max((e["relative_difference"] for e in compared if "relative_difference" in e), default=None),
        "agreement": min(routed, default=None),
    }
    distances = raw["distance_from_fp32"]
    assert (found["from_fp32"] is not None) == bool(distances)
    if distances:
        assert found["from_fp32"]["max_difference"] == max(entry["max_difference"] for entry in distances)
        shares = [share for entry in distances for share in entry["agreement"].values()]
        assert (found["from_fp32"]["agreement"], found["from_fp32"]["images"]) == (min(shares), distances[0]["images"])
    assert (found["tensorrt"] is not None) == (name == "v3-bf16")
    if name == "v3-bf16":
        assert found["tensorrt"]["graphs"] == [entry["graph"] for entry in raw["tensorrt"]]


@pytest.mark.parametrize("name", KEPT)
def test_the_text_has_its_sections_in_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines, complaints = run(capsys, BUNDLES / name)
    assert complaints == []
    without = {"v3-dense": HEADS[:1] + HEADS[2:3], "v3-soft": HEADS[2:3]}.get(name, [])
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads[:-1] == [name, *(head for head in HEADS if head not in without)]
    assert heads[-1].startswith("Here: ")
    assert max(map(len, lines)) <= 80
    assert row(lines, "kind").startswith(KINDS.get(name, "V-MoE"))
    assert any("together" in line and "not verified" in line for line in lines)
    assert row(lines, "openvino").startswith("yes")


def test_the_text_says_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = run(capsys, BUNDLES / "v3-fp32")
    assert row(lines, "images") == "12 x 12 px, 3 channels; patches of 4 x 4"
    assert row(lines, "encoder") == "2 blocks, width 24, 3 heads, MLP 48"
    assert row(lines, "classes") == "7: ape, bee, cat, ..."
    assert row(lines, "parameters") == "18,631 in 41 tensors"
    assert row(lines, "per token") == "11,503, 61.7% of them: 1 of 4 experts in each MoE layer"
    assert row(lines, "dense FLOPs") == "225 k per image, of the dense model of this size"
    assert row(lines, "group") == "image: 10 tokens"
    assert row(lines, "batches") == "multiples of 1 image"
    assert row(lines, "a call sets") == "capacity, k, bpr, pool, max_experts"
    assert row(lines, "image") == "float32[N,12,12,3], in [-1, 1]"
    assert row(lines, "logits") == "float32[N,7]"
    assert row(lines, "largest") == "4.8e-07 (at most 0.0001)"
    (line,) = (line for line in lines if line.startswith("  c0.3-k1-pool-m3 "))
    assert line.split()[1:] == ["0.3", "0.4", "1", "BPR", "yes", "3", "1", "199", "k", "89%"]
    assert row(run(capsys, BUNDLES / "v3-ensemble")[0], "kind") == "V-MoE, an ensemble of 2 members (E3)"
    assert row(run(capsys, BUNDLES / "v3-soft")[0], "slots") == "3 per expert and group"
    assert row(run(capsys, BUNDLES / "v3-dense")[0], "image") == "uint8[N,12,12,3], 0 to 255"
    assert row(run(capsys, BUNDLES / "v3-plain")[0], "typical") == "-"
    graphs = "graphs in bf16: c0.3-k1.tensorrt.onnx, c0.3-k2.tensorrt.onnx"
    assert row(run(capsys, BUNDLES / "v3-bf16")[0], "TensorRT") == graphs


def test_a_bundle_with_groups_of_images(mnist_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = card(capsys, mnist_bundle)
    assert (found["batch_multiple"], found["routing"]["group"], found["parameters"]["k"]) == (16, "16", 1)
    assert [profile["name"] for profile in found["profiles"]] == [p["name"] for p in manifest_of(mnist_bundle)["profiles"]]
    assert found["validation"] is None
    lines, _ = run(capsys, mnist_bundle)
    assert row(lines, "blocks") == "0, 1, 2, 3, 4"
    assert row(lines, "batches") == "multiples of 16 images"
    assert row(lines, "compared") == "nothing: the bundle was not validated"
    start = lines.index("Profiles, the first is the default") + 3
    names = [line.split()[0] for line in lines[start : start + len(found["profiles"])]]
    assert names == [profile["name"] for profile in found["profiles"]]


def test_vanilla_order_is_named(tmp_path: Path, mnist_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_bundle(mnist_checkpoint, tmp_path / "x.vmoe", capacity=[0.3], k=[2], bpr=False, validate=False)
    lines, _ = run(capsys, tmp_path / "x.vmoe")
    (line,) = (line for line in lines if line.startswith("  c0.3-k2-vanilla "))
    assert line.split()[4:7] == ["vanilla", "no", "8"]
    assert row(lines, "per token").endswith("2 of 8 experts in each MoE layer")


# Tensors


def test_tensors_are_listed_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = run(capsys, BUNDLES / "v3-int8", "--list-tensors")
    table = [line.split() for line in lines[lines.index("Tensors") + 2 :] if line]
    expected = card(capsys, BUNDLES / "v3-int8")["tensors"]
    assert table == [[t["name"], t["dtype"], f"[{','.join(map(str, t['shape']))}]", f"{t['bytes']:,}"] for t in expected]
    assert "Tensors" not in run(capsys, BUNDLES / "v3-int8")[0]


def weights(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (), span: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "unpack requires a buffer of 8 bytes"),
        (struct.pack("<Q", 9) + b"{}", "would have 9 bytes"),
        (weights(b"{"), "Expecting"),
        (weights([]), "it is no object"),
        (weights({"a": 1}), "'a' is none of a tensor"),
        (weights({"a": entry(dtype=["F32"])}, bytes(4)), "'a' is none of a tensor"),
        (weights({"a": entry(dtype="F4")}, bytes(4)), "'a' is none of a tensor"),
        (weights({"a": entry(shape=[-1])}, bytes(4)), "'a' is none of a tensor"),
        (weights({"a": entry(shape=[True])}, bytes(4)), "'a' is none of a tensor"),
        (weights({"a": entry(span=[0, 4, 8])}, bytes(4)), "'a' is none of a tensor"),
        (weights({"a": entry(shape=[2])}, bytes(4)), "'a' has 4 bytes, which its shape doesn't take"),
        (weights({"a": entry(), "b": entry()}, bytes(4)), "leave out or share bytes at 0"),
        (weights({"a": entry(), "b": entry(span=[8, 12])}, bytes(12)), "leave out or share bytes at 4"),
        (weights({"a": entry()}, bytes(8)), "leave out or share bytes at 4"),
        (weights({"a": entry()}), "leave out or share bytes at 0"),
        (weights(b'{"a": 1, "a": 2}'), "stands there twice"),
    ],
)
def test_a_header_that_is_none_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BundleError) as refused:
        read_tensors(io.BytesIO(content), len(content))
    assert_one_sentence(str(refused.value), f"{WEIGHTS} has no readable header", says)


def test_metadata_is_no_tensor_and_numbers_have_no_shape() -> None:
    content = weights({"__metadata__": {"format": "pt"}, "b": entry(span=[4, 8]), "a": entry()}, bytes(8))
    assert [(t.name, t.shape, t.elements) for t in read_tensors(io.BytesIO(content), len(content))] == [
        ("a", (), 1),
        ("b", (), 1),
    ]
    assert read_tensors(io.BytesIO(weights({})), len(weights({}))) == ()


def test_weights_without_a_header_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = changed(tmp_path, "v3-plain")
    text = bytearray((target / WEIGHTS).read_bytes())
    text[8] = ord("[")
    (target / WEIGHTS).write_bytes(text)
    lines, (complaint,) = run(capsys, target, code=1)
    assert lines == [] and complaint.startswith(f"vmoe-inspect: {target}: {WEIGHTS} has no readable header (")


def test_experts_of_another_number_give_no_parameters_per_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parts of the weights are named otherwise, as a foreign bundle might have them; the graphs read by offset."""
    target = changed(tmp_path, "v3-plain")
    text = (target / WEIGHTS).read_bytes()
    (target / WEIGHTS).write_bytes(text.replace(b"/Moe/Mlp/", b"/Moe/MLP/"))
    found = card(capsys, target)["parameters"]
    assert (found["all"], found["per_token"], found["k"]) == (18_631, None, 1)
    assert row(run(capsys, target)[0], "per token") == "-"


# Verifying


def test_verified_files_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = run(capsys, BUNDLES / "v3-bf16", "--verify")
    assert any("all 5 files are what the manifest says" in line for line in lines)
    assert card(capsys, BUNDLES / "v3-bf16", "--verify")["verified"] is True


@pytest.mark.parametrize("file", [WEIGHTS, CANONICAL, "model.inlined.onnx"])
def test_a_changed_byte_is_found_where_that_is_asked_for(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = changed(tmp_path, "v3-plain")
    text = bytearray((target / file).read_bytes())
    # A weight; or a letter of the words about the graph.
    position = len(text) - 1 if file == WEIGHTS else text.index(b"vmoe-export")
    text[position] ^= 1
    (target / file).write_bytes(text)
    assert any("not verified" in line for line in run(capsys, target)[0])
    lines, (complaint,) = run(capsys, target, "--verify", "--json", tmp_path / "x.json", code=1)
    assert lines == []
    assert complaint == f"vmoe-inspect: {target}: {file} was changed after export (its SHA-256 differs)"
    assert not (tmp_path / "x.json").exists()


def test_nothing_is_hashed_without_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(Bundle, "_check_sha256", lambda self, name, digest: hashed.append(name))
    card(capsys, BUNDLES / "v3-plain")
    assert hashed == []
    card(capsys, BUNDLES / "v3-plain", "--verify")
    assert sorted(hashed) == ["model.inlined.onnx", CANONICAL, WEIGHTS]


# What a manifest may say


@pytest.mark.parametrize(
    "value",
    [None, ..., True, -1, 1.5, "\x1b[2J[/b]", [], [1], [[]], [{}], [{"graph": 3, "agreement": [], "images": {}}], {}],
    ids=repr,
)
@pytest.mark.parametrize("name", ["v3-plain", "v3-dense"])
def test_fields_for_people_may_be_of_any_type(
    name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = manifest_of(BUNDLES / name)
    fields = {"source": value, "producer": value, "flops_per_image": value, "validation": value}
    inner = {} if value is ... else {"validation": {"comparisons": value, "atol": value, "distance_from_fp32": value}}
    for number, change in enumerate((fields, inner)):
        folder = tmp_path / str(number)
        folder.mkdir()
        odd = {} if value is ... else dict.fromkeys([*raw["model"], "moe"], value)
        target = changed(folder, name, **{**fields, **change, "model": odd})
        found = card(capsys, target)
        assert set(found["origin"].values()) == {None}
        sizes = ("patch_size", "num_layers", "hidden_size", "num_heads", "mlp_dim", "num_classes", "expert_mlp_dim")
        assert [found["model"][size] for size in sizes] == [None] * len(sizes)
        assert found["dense_flops_per_image"] is None
        assert {profile["of_dense"] for profile in found["profiles"]} <= {None}
        lines, _ = run(capsys, target)
        assert row(lines, "checkpoint") == "- (-)"
        assert row(lines, "exported by") == "- -"
        assert not any("\x1b" in line for line in lines)


def test_fields_that_are_missing_are_dashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = dict.fromkeys(("validation", "flops_per_image", "source", "producer"), ...)
    found = card(capsys, changed(tmp_path, "v3-plain", model={}, **missing))
    assert set(found["model"].values()) == {None}
    assert found["validation"] is None
    lines, _ = run(capsys, tmp_path / "changed.vmoe")
    assert row(lines, "encoder") == "- blocks, width -, - heads, MLP -"
    assert row(lines, "images") == "12 x 12 px, 3 channels; patches of -"
    assert row(lines, "classifier") == "-"
    assert row(lines, "dense FLOPs").startswith("- per image")
    assert row(lines, "SHA-256") == "-"
    (line,) = (line for line in lines if line.startswith("  c0.3-k1 "))
    assert line.split()[-2:] == ["-", "-"]


def test_numbers_without_bounds_do_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flops = {"dense": 1, "c0.3-k1": 10**300, "c0.3-k2": 2**53, "c1.05-k1": 0, "c1.05-k2": 7}
    comparison = {"graph": "x", "profile": "y", "max_difference": 10**300, "agreement": {"a": 0.5, "b": 0.25, "c": "d"}}
    validation = {"atol": 1e-300, "comparisons": [comparison, 3, {**comparison, "agreement": -1}]}
    target = changed(tmp_path, "v3-plain", flops_per_image=flops, validation=validation)
    found = card(capsys, target)
    assert [profile["flops_per_image"] for profile in found["profiles"]] == [None, 2**53, None, 7]
    assert (found["validation"]["graphs"]["max_difference"], found["validation"]["graphs"]["agreement"]) == (1e300, 0.25)
    lines, _ = run(capsys, target)
    assert row(lines, "largest") == "1.0e+300 (at most 1e-300)"
    start = lines.index("Profiles, the first is the default") + 3
    costs = [line.split()[8:] for line in lines[start : start + 4]]
    assert costs == [["-", "-"], ["9.01e+03", "T", ">", "9999%"], ["-", "-"], ["7", "700%"]]


@pytest.mark.parametrize("dense", [0, ...])
def test_without_the_cost_of_the_dense_model_there_is_no_share(
    dense: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flops = {"c0.3-k1": 5} | ({} if dense is ... else {"dense": dense})
    first = card(capsys, changed(tmp_path, "v3-plain", flops_per_image=flops))["profiles"][0]
    assert (first["flops_per_image"], first["of_dense"]) == (5, None)


def test_text_of_a_bundle_is_printed_as_it_is_and_does_not_steer_the_terminal(
    tmp_path: Path, mnist_image_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "odd [b]\x1b[31m.vmoe"
    shutil.copytree(mnist_image_bundle, target)
    raw = manifest_of(target)
    raw["class_names"] = ["\x1b[2J", *DIGITS[1:]]
    raw["source"] = {"name": "a[/b]\x1b]0;b\x07\u202ec\n:smile:", "format": "x" * 999, "sha256": "\x1b" * 64}
    raw["producer"] = {"name": "[red]me", "version": "\x9b1m"}
    raw["model"]["classifier"] = "[link=x]"
    (target / MANIFEST).write_text(json.dumps(raw))
    lines, _ = run(capsys, target)
    assert not any(character for line in lines for character in line if not character.isprintable())
    assert lines[0] == r"odd [b]\x1b[31m.vmoe"
    assert row(lines, "classes") == r"10: \x1b[2J, [/b]one, two:100:, ..."
    assert row(lines, "checkpoint").startswith(r"a[/b]\x1b]0;b\x07\u202ec\n:smile: (xxx")
    assert row(lines, "exported by") == r"[red]me \x9b1m"
    assert row(lines, "classifier") == "[link=x]"
    assert card(capsys, target)["origin"]["name"] == raw["source"]["name"]


def test_a_hostile_tensor_name_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = changed(tmp_path, "v3-plain")
    text = (target / WEIGHTS).read_bytes()
    (target / WEIGHTS).write_bytes(text.replace(b'"embedding/bias"', rb'"a[/b]\u001b[2J"'))
    lines, _ = run(capsys, target, "--list-tensors")
    assert any(line.startswith(r"  a[/b]\x1b[2J ") for line in lines)


# What runs here


def test_the_card_says_what_an_engine_would_run_on(mnist_image_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = card(capsys, mnist_image_bundle)["machine"]
    states = {state["name"]: state for state in found["backends"]}
    assert list(states) == list(BACKENDS)
    for name, state in states.items():
        try:
            with Engine.load(mnist_image_bundle, backend=name) as engine:
                expected = (True, engine.backend_description, None)
        except BackendError as error:
            expected = (False, None, str(error))
        assert (state["runs"], state["description"], state["reason"]) == expected
    with Engine.load(mnist_image_bundle) as engine:
        assert [name for name, state in states.items() if state["auto"]] == [engine.backend]
    library = op_library.find_library()
    assert found["op_library"]["path"] == (library and str(library))
    if library is not None:
        assert states["onnxruntime"]["description"].endswith(f", {found['op_library']['cpu_path']}")
    lines, _ = run(capsys, mnist_image_bundle)
    for name, state in states.items():
        auto = " (auto)" if state["auto"] else ""
        expected = f"yes{auto}, {state['description']}" if state["runs"] else f"no: {state['reason']}"
        assert unspaced(row(lines, name)) == unspaced(expected)  # a path longer than a line is broken inside a name


def test_graphs_for_tensorrt_are_no_reason_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("v3-plain", "has no graphs for TensorRT"), ("v3-bf16", None)):
        states = {state["name"]: state for state in card(capsys, BUNDLES / name)["machine"]["backends"]}
        for backend in ("ort-tensorrt", "tensorrt"):
            said = states[backend]["reason"] or ""
            assert ("has no graphs for TensorRT" in said) == (words is not None)


def test_no_graph_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a graph was loaded")

    monkeypatch.setattr(onnxruntime_cpu.OnnxRuntimeBackend, "__init__", refuse)
    monkeypatch.setattr(openvino_cpu.OpenVinoBackend, "__init__", refuse)
    assert card(capsys, BUNDLES / "v3-fp32")["machine"]["backends"][0]["runs"]


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("onnxruntime_cpu", "onnxruntime_gpu", "openvino_cpu"):
        monkeypatch.setitem(sys.modules, f"vmoe_runtime.backends.{module}", None)
    states = card(capsys, BUNDLES / "v3-bf16")["machine"]["backends"]
    assert [state["runs"] for state in states] == [False] * len(BACKENDS)
    assert [state["auto"] for state in states] == [False] * len(BACKENDS)
    for state in states:
        assert f"backend '{state['name']}' is not installed" in state["reason"]
        assert f"pip install 'vmoe-export[{BACKENDS[state['name']].extra}]'" in state["reason"]


def test_an_installation_without_the_op_library_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vmoe_runtime.backends.has_driver", lambda: False)
    monkeypatch.setattr("vmoe_runtime.installation.find_native", lambda *path: None)
    monkeypatch.setattr("vmoe_runtime.op_library.find_native", lambda *path: None)
    found = card(capsys, BUNDLES / "v3-fp32")["machine"]
    assert (found["op_library"]["path"], found["op_library"]["cpu_path"]) == (None, None)
    assert "this installation of vmoe-export has no op library" in found["op_library"]["reason"]
    assert found["backends"][0]["description"].endswith("CPU, standard ops")
    assert [state["name"] for state in found["backends"] if state["auto"]] == ["openvino"]
    assert row(run(capsys, BUNDLES / "v3-fp32")[0], "op library").startswith("no: this installation of vmoe-export has no")


def test_an_op_library_that_cannot_be_loaded_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "libvmoe_onnxruntime.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("vmoe_runtime.op_library.find_native", lambda *path: broken)
    found = card(capsys, BUNDLES / "v3-fp32")["machine"]
    assert found["op_library"]["reason"].startswith(f"the op library {broken} can't be loaded: ")
    assert found["backends"][0]["description"].endswith("CPU, standard ops")


def test_an_old_onnxruntime_is_too_old_for_the_op_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if op_library.usable_library()[0] is None:
        pytest.skip("the op library was not built here")
    monkeypatch.setattr("vmoe_runtime.backends.has_driver", lambda: False)
    monkeypatch.setattr("onnxruntime.__version__", "1.20.1")
    states = card(capsys, BUNDLES / "v3-fp32")["machine"]["backends"]
    assert "needs ONNX Runtime 1.21 or newer, and 1.20.1 is installed" in states[0]["reason"]
    assert not any(state["auto"] for state in states), "Engine.load would fail, too"


def test_groups_that_openvino_can_not_route_are_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openvino_cpu, "_MAX_GROUP_TOKENS", 9)
    states = card(capsys, BUNDLES / "v3-fp32")["machine"]["backends"]
    assert "OpenVINO routes groups of up to 9 tokens exactly, and this bundle's have 10" in states[1]["reason"]


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ({}, "onnxruntime"),
        ({"onnxruntime": UnavailableError("no")}, "openvino"),
        ({"onnxruntime": UnsuitedError("too large")}, "openvino"),
        ({"onnxruntime": BackendError("too old")}, None),
        ({"onnxruntime": UnavailableError("no"), "openvino": UnsuitedError("too large")}, None),
    ],
)
def test_auto_passes_over_what_is_unavailable_or_unsuited(
    errors: dict[str, BackendError], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "fastest_first", lambda: ("onnxruntime", "openvino"))
    found = {name: Availability(None if name in errors else "runs", errors.get(name)) for name in BACKENDS}
    assert chosen_by_auto(found) == chosen


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRt]:
    """TensorRT's fake, an empty cache for its engines, and a plugin."""
    backend = "vmoe_runtime.backends.tensorrt.tensorrt_engine"
    fake = FakeTensorRt()
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    sys.modules.pop(backend, None)
    monkeypatch.setattr(import_module(backend), "plugin_library", lambda: tmp_path / "plugin.so")
    yield fake
    sys.modules.pop(backend, None)


def test_an_engine_that_was_built_is_found_and_not_read(tensorrt: FakeTensorRt, capsys: pytest.CaptureFixture[str]) -> None:
    from vmoe_runtime.backends.tensorrt.tensorrt_engine import engine_key

    bundle = Bundle.open(BUNDLES / "v3-bf16")
    assert "no engine was built" in card(capsys, bundle.path)["machine"]["backends"][-1]["reason"]
    key = engine_key(bundle, bundle.manifest.profiles["c0.3-k1"], tensorrt.gpu())
    store_engine(b"engine", EngineRecord(key, 2, 8, 32, False, hashlib.sha256(b"another").hexdigest(), 6))
    state = card(capsys, bundle.path)["machine"]["backends"][-1]
    assert state["description"] == "TensorRT 10.13.0.35 on NVIDIA H100 80GB HBM3, bf16, batches of 2 to 32"


def test_every_backend_has_a_check() -> None:
    assert list(availability._CHECKS) == list(BACKENDS)


# The command


def test_json_in_a_file_stands_beside_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, complaints = run(capsys, "--json", tmp_path / "x.json", BUNDLES / "v3-plain")
    assert lines[0] == "v3-plain" and complaints == []
    written = json.loads((tmp_path / "x.json").read_text())
    assert written == card(capsys, BUNDLES / "v3-plain")
    assert list(written) == [
        *("bundle", "format_version", "verified", "kind", "ensemble_size", "model", "parameters", "precision", "routing"),
        *("batch_multiple", "image", "output", "profiles", "dense_flops_per_image", "tensorrt", "validation", "origin"),
        *("files", "bytes", "machine", "tensors"),
    ]
    lines, text = run(capsys, "--json", "-", BUNDLES / "v3-plain")
    assert json.loads("\n".join(lines)) == written and text[0] == "v3-plain"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, BUNDLES / "v3-plain", "-q", "--verify") == ([], [])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "required: BUNDLE"),
        (["x.vmoe", "y.vmoe"], 2, "unrecognized arguments: y.vmoe"),
        (["x.vmoe", "--verif"], 2, "unrecognized arguments: --verif"),
        (["x.vmoe", "-v", "-q"], 2, "not allowed with"),
        (["absent.vmoe"], 1, "absent.vmoe is not a bundle"),
        (["absent.vmoe", "--json", "nowhere/x.json"], 1, "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines, (complaint,) = run(capsys, *arguments, code=code)
    assert lines == [] and complaint.startswith("vmoe-inspect: ") and says in complaint


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda target: (target / MANIFEST).unlink(), "manifest.json: No such file or directory"),
        (lambda target: (target / MANIFEST).write_text("{"), "manifest.json is not readable JSON"),
        (lambda target: (target / WEIGHTS).unlink(), "weights.safetensors: No such file or directory"),
        (lambda target: os.truncate(target / WEIGHTS, 9), "weights.safetensors has 9 bytes where the manifest says"),
        (lambda target: (target / CANONICAL).write_bytes(b"\xff" * 20_188), "model.onnx is not a readable ONNX model"),
    ],
    ids=["no manifest", "no JSON", "no weights", "cut weights", "no graph"],
)
def test_a_bad_bundle_is_the_sentence_of_the_reader(
    spoil: Callable[[Path], object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = changed(tmp_path, "v3-plain")
    spoil(target)
    lines, (complaint,) = run(capsys, target, code=1)
    with pytest.raises(BundleError) as refused:
        Bundle.open(target, verify=False)
    assert lines == [] and complaint == f"vmoe-inspect: {refused.value}"
    assert says in complaint


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "usable_cores", interrupt)
    assert run(capsys, BUNDLES / "v3-plain", code=130) == ([], ["vmoe-inspect: interrupted"])


def test_without_rich_the_card_is_still_json(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['rich'] = None; from vmoe_tools.inspect.cli import main; code = main();"
        "print({'torch', 'onnx', 'click', 'safetensors', 'vmoe_export'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, BUNDLES / "v3-plain"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "the card needs rich" in ran.stderr and "pip install 'vmoe-export[bench]'" in ran.stderr
    ran = subprocess.run([*command, "-q", "--json", "-"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "set()\n")
    assert json.loads(ran.stdout)["kind"] == "V-MoE"


def test_a_reader_that_goes_is_one_sentence() -> None:
    command = f"{sys.executable} -m vmoe_tools.inspect {BUNDLES / 'v3-plain'} --list-tensors | true"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ran.stderr == "vmoe-inspect: output: Broken pipe\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_its_own_width_and_bold_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": ""}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with Bundle.open(BUNDLES / "v3-plain") as bundle:
        print_card(make_card(bundle, verified=True), stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "\x1b[1mv2-fp32\x1b[0m"
    widths = [len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines]
    assert 50 < max(widths) <= 60


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vmoe_tools.inspect", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("vmoe_tools.inspect", run_name="__main__")
    assert stopped.value.code == 0
    assert "vmoe-inspect BUNDLE [options]" in capsys.readouterr().out
