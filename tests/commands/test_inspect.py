"""Tests for `vmoe inspect`.

They check a bundle's summary, the routing of images as JSON, and messages about bad bundles and images.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from bundle_changes import CANONICAL, MANIFEST, WEIGHTS
from command_runs import Vmoe, kept_bundle, noise, npz
from damaged_files import copied_bundle, refusal
from named_bundles import with_odd_names
from safetensors import safe_open

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, BundleError, Engine, op_library
from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.backends.tensorrt.engine_cache import EngineRecord
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError, UnsuitedError
from vmoe_tools.build.engine_store import store_engine
from vmoe_tools.inspect.tensors import read_tensors
from vmoe_tools.machine import chosen_by_auto

KINDS = {"dense": "dense ViT", "choice": "V-MoE with expert choice", "soft": "Soft MoE"}
KEPT = ("fp32", "bf16", "int8", "ensemble", *KINDS)
LAYERS = [f"encoderblock_{i}" for i in range(5)]


def manifest_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / MANIFEST).read_bytes())
    return found


def changed(folder: Path, kind: str, **fields: Any) -> Path:
    """Copy the stored bundle `kind`, and change `fields` in its manifest. The value `...` (Ellipsis) removes a field."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest.update(fields)
        for key in [key for key, value in fields.items() if value is ...]:
            del manifest[key]

    return copied_bundle(kept_bundle(kind), folder / "changed.vmoe", edit)


# The summary


@pytest.mark.parametrize("kind", KEPT)
def test_the_summary_says_what_the_manifest_says(kind: str, vmoe: Vmoe) -> None:
    bundle = kept_bundle(kind)
    found, raw = vmoe.json("inspect", bundle), manifest_of(bundle)
    model, routing, flops = raw["model"], raw["routing"], raw["flops_per_image"]
    assert (found["bundle"], found["format_version"], found["verified"]) == (str(bundle), raw["format_version"], False)
    assert (found["kind"], found["ensemble_size"]) == (KINDS.get(kind, "V-MoE"), 2 if kind == "ensemble" else 1)
    assert found["model"] == {
        **{key: model[key] for key in ("patch_size", "num_layers", "hidden_size", "num_heads", "mlp_dim")},
        **{key: model[key] for key in ("classifier", "num_classes")},
        "expert_mlp_dim": model["moe"]["mlp_dim"] if routing else None,
        "dispatch_bf16": model["moe"]["dispatch_bf16"] if routing else None,
    }
    assert found["image"] == {
        **{key: raw["input"][key] for key in ("dtype", "height", "width", "channels")},
        "preprocessing": ["resize(12)"],
    }
    assert (found["output"]["name"], found["output"]["shape"][-1]) == (raw["output"]["name"], raw["output"]["size"])
    assert found["output"]["class_names"] == raw["class_names"]
    assert (found["batch_multiple"], found["precision"]) == (raw["batch_multiple"], raw["precision"])
    source, producer = raw["source"], raw["producer"]
    assert found["origin"] == {**source, "producer": producer["name"], "producer_version": producer["version"]}
    assert found["files"] == [{"name": file, **raw["files"][file]} for file in raw["files"]]
    assert found["bytes"] == sum((bundle / file).stat().st_size for file in raw["files"])
    assert found["tensorrt"] == raw.get("tensorrt")
    if routing is None:
        assert found["routing"] is None
    else:
        same = ("layers", "num_experts", "group", "group_tokens")
        assert {key: found["routing"][key] for key in same} == {key: routing[key] for key in same}
        for key in ("slots_per_expert", "rounding", "capacity_multiple_of"):
            assert found["routing"][key] == routing.get(key)
    fields = ("name", "capacity_ratio", "effective_ratio", "k", "bpr", "pool", "max_experts", "merge", "capacity")
    assert found["profiles"] == [
        {
            **{field: profile.get(field) for field in fields},
            "flops_per_image": flops[profile["name"]],
            "of_dense": flops[profile["name"]] / flops["dense"],
        }
        for profile in raw["profiles"]
    ]
    assert found["dense_flops_per_image"] == flops["dense"]


@pytest.mark.parametrize("kind", KEPT)
def test_tensors_and_parameters_are_those_that_safetensors_reads(kind: str, vmoe: Vmoe) -> None:
    found = vmoe.json("inspect", kept_bundle(kind))
    stored = kept_bundle(kind) / WEIGHTS
    types = {"F32": ("float32", 4), "BF16": ("bfloat16", 2), "I8": ("int8", 1)}
    expected, count, idle = {}, 0, 0
    with safe_open(stored, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118  (it is no mapping)
            part = file.get_slice(key)
            size, (dtype, width) = math.prod(part.get_shape()), types[part.get_dtype()]
            expected[key] = {"name": key, "dtype": dtype, "shape": part.get_shape(), "bytes": size * width}
            if not key.endswith("kernel_scale"):
                count += size
                idle += size * 3 // 4 if "/Moe/Mlp/" in key else 0  # at k = 1, a token uses only one of the four experts
    assert {tensor["name"]: tensor for tensor in found["tensors"]} == expected
    text = stored.read_bytes()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert [t["name"] for t in found["tensors"]] == sorted(header, key=lambda key: header[key]["data_offsets"])
    per_token = {"choice": None, "soft": count, "dense": count}.get(kind, count - idle)
    k = None if kind in KINDS else 1
    assert found["parameters"] == {"all": count, "per_token": per_token, "k": k, "tensors": len(expected)}


@pytest.mark.parametrize("kind", KEPT)
def test_validation_is_the_worst_of_what_was_compared(kind: str, vmoe: Vmoe) -> None:
    found, raw = vmoe.json("inspect", kept_bundle(kind))["validation"], manifest_of(kept_bundle(kind))["validation"]
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


# Tensors


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
        (weights([]), "not a JSON object"),
        (weights({"a": 1}), "'a' does not describe a tensor"),
        (weights({"a": entry(dtype=["F32"])}, bytes(4)), "'a' does not describe a tensor"),
        (weights({"a": entry(dtype="F4")}, bytes(4)), "'a' does not describe a tensor"),
        (weights({"a": entry(shape=[-1])}, bytes(4)), "'a' does not describe a tensor"),
        (weights({"a": entry(shape=[True])}, bytes(4)), "'a' does not describe a tensor"),
        (weights({"a": entry(span=[0, 4, 8])}, bytes(4)), "'a' does not describe a tensor"),
        (weights({"a": entry(shape=[2])}, bytes(4)), "'a' has 4 bytes"),
        (weights({"a": entry(), "b": entry()}, bytes(4)), "share bytes at 0"),
        (weights({"a": entry(), "b": entry(span=[8, 12])}, bytes(12)), "share bytes at 4"),
        (weights({"a": entry()}, bytes(8)), "share bytes at 4"),
        (weights({"a": entry()}), "share bytes at 0"),
        (weights(b'{"a": 1, "a": 2}'), "stands there twice"),
    ],
)
def test_a_header_that_is_none_is_refused(content: bytes, says: str) -> None:
    with refusal(BundleError, f"{WEIGHTS} has no readable header", says):
        read_tensors(io.BytesIO(content), len(content))


# Verifying


@pytest.mark.parametrize("file", [WEIGHTS, CANONICAL, "model.inlined.onnx"])
def test_a_changed_byte_is_found_by_verify(file: str, tmp_path: Path, vmoe: Vmoe) -> None:
    target = changed(tmp_path, "fp32")
    assert vmoe.json("inspect", target, "--verify")["verified"] is True
    text = bytearray((target / file).read_bytes())
    # Change one byte: the last byte of the weights, or a letter in the graph's text.
    text[len(text) - 1 if file == WEIGHTS else text.index(b"vmoe-export")] ^= 1
    (target / file).write_bytes(text)
    assert vmoe.json("inspect", target)["verified"] is False
    complaint = vmoe.complaint(1, "inspect", target, "--verify", "--json", tmp_path / "x.json")
    assert complaint == f"vmoe: {target}: {file} was changed after export (its SHA-256 differs)\n"
    assert not (tmp_path / "x.json").exists()


# Each of these values is allowed in a manifest.


@pytest.mark.parametrize(
    "value",
    [None, ..., True, -1, 1.5, "\x1b[2J[/b]", [1], [{}], [{"graph": 3, "agreement": [], "images": {}}], {}],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["fp32", "dense"])
def test_fields_for_people_may_be_of_any_type(kind: str, value: object, tmp_path: Path, vmoe: Vmoe) -> None:
    raw = manifest_of(kept_bundle(kind))
    inner = value if value is ... else {"comparisons": value, "atol": value, "distance_from_fp32": value}
    fields = {"source": value, "producer": value, "flops_per_image": value, "validation": inner}
    odd = {} if value is ... else dict.fromkeys([*raw["model"], "moe"], value)
    target = changed(tmp_path, kind, **fields, model=odd)
    found = vmoe.json("inspect", target)
    assert set(found["origin"].values()) == {None}
    sizes = ("patch_size", "num_layers", "hidden_size", "num_heads", "mlp_dim", "num_classes", "expert_mlp_dim")
    assert [found["model"][size] for size in sizes] == [None] * len(sizes)
    assert found["dense_flops_per_image"] is None
    assert {profile["of_dense"] for profile in found["profiles"]} <= {None}
    assert "\x1b" not in vmoe.run("inspect", target)[0]


def test_text_of_a_bundle_is_printed_as_it_is_and_does_not_steer_the_terminal(
    tmp_path: Path, mnist_bundle: Path, mnist_digits: Path, vmoe: Vmoe
) -> None:
    target = with_odd_names(mnist_bundle, tmp_path).rename(tmp_path / "odd [b]\x1b[31m.vmoe")
    raw = manifest_of(target)
    raw["source"] = {"name": "a[/b]\x1b]0;b\x07\u202ec\n:smile:", "format": "x" * 999, "sha256": "\x1b" * 64}
    (target / MANIFEST).write_text(json.dumps(raw))
    text = (target / WEIGHTS).read_bytes()
    (target / WEIGHTS).write_bytes(text.replace(b'"embedding/bias"', rb'"a[/b]\u001b[2J"'))
    out, _ = vmoe.run("inspect", target, "--list-tensors")
    assert not any(character for line in out.splitlines() for character in line if not character.isprintable())
    for words in (r"odd [b]\x1b[31m.vmoe", r"two\x1b[2J", r"a[/b]\x1b]0;b\x07\u202ec\n:smile:", r"a[/b]\x1b[2J"):
        assert words in out
    assert vmoe.json("inspect", target)["origin"]["name"] == raw["source"]["name"]


# Backends on this machine


def test_the_summary_says_what_an_engine_would_run_on(mnist_image_bundle: Path, vmoe: Vmoe) -> None:
    found = vmoe.json("inspect", mnist_image_bundle)["machine"]
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


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe) -> None:
    for module in ("onnxruntime_cpu", "onnxruntime_cuda", "tensorrt.onnxruntime_provider", "openvino_cpu"):
        monkeypatch.setitem(sys.modules, f"vmoe_runtime.backends.{module}", None)
    states = vmoe.json("inspect", kept_bundle("bf16"))["machine"]["backends"]
    assert [state["runs"] for state in states] == [False] * len(BACKENDS)
    assert [state["auto"] for state in states] == [False] * len(BACKENDS)
    for state in states:
        assert f"backend '{state['name']}' is not installed" in state["reason"]
        assert f"pip install 'vmoe-export[{BACKENDS[state['name']].extra}]'" in state["reason"]


def test_an_op_library_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe) -> None:
    broken = tmp_path / "libvmoe_onnxruntime.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("vmoe_runtime.op_library.find_native", lambda *path: broken)
    found = vmoe.json("inspect", kept_bundle("fp32"))["machine"]
    assert found["op_library"]["reason"].startswith(f"the op library {broken} can't be loaded: ")
    assert "CPU, standard ops; the op library" in found["backends"][0]["description"]


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
    monkeypatch.setattr("vmoe_tools.machine.fastest_first", lambda: ("onnxruntime", "openvino"))
    found = {name: errors.get(name, "runs") for name in BACKENDS}
    assert chosen_by_auto(found) == chosen


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the fake TensorRT and return the backend's module.

    The fixture also sets up an empty cache for built engines, and a plugin.
    """
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "cache"))
    fake_tensorrt.install(monkeypatch)
    backend = import_module("vmoe_runtime.backends.tensorrt.tensorrt_engine")
    monkeypatch.setattr(backend, "plugin_library", lambda: tmp_path / "plugin.so")
    return backend


def test_an_engine_that_was_built_is_found(tensorrt: Any, vmoe: Vmoe) -> None:
    bundle = Bundle.open(kept_bundle("bf16"))
    assert "no engine was built" in vmoe.json("inspect", bundle.path)["machine"]["backends"][-1]["reason"]
    key = tensorrt.engine_key(bundle, bundle.manifest.profiles["c0.3-k1"])
    store_engine(b"engine", EngineRecord(key, 2, 8, 32, False, hashlib.sha256(b"engine").hexdigest(), 6))
    state = vmoe.json("inspect", bundle.path)["machine"]["backends"][-1]
    assert state["description"] == "TensorRT 10.13.0.35 on NVIDIA H100 80GB HBM3, bf16, batches of 2 to 32"


# On images


@pytest.fixture(scope="module")
def low_bundle(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Export the MNIST model in int8, with each image routed separately."""
    target = tmp_path_factory.mktemp("low") / "low.vmoe"
    export_bundle(mnist_checkpoint, target, capacity=[0.5], k=[2], precision="int8", validate=False)
    return target


@pytest.mark.parametrize("setting", [("--profile", "c0.3-k2"), ("--capacity", 0.3, "--k", 2)], ids=["profile", "setting"])
def test_the_json_has_the_numbers_of_all_whole_groups(
    setting: tuple[object, ...], mnist_bundle: Path, mnist_digits: Path, mnist_images: dict[str, np.ndarray], vmoe: Vmoe
) -> None:
    found = vmoe.json("inspect", mnist_bundle, "--images", mnist_digits, *setting)["on_images"]
    images, labels = mnist_images["images"][:64], mnist_images["labels"][:64]
    with Engine.load(mnist_bundle) as engine:
        logits, routing = engine.logits_and_routing(images, "c0.3-k2")
        assert found["backend"] == engine.backend_description
    assert (found["images"], found["left_over"], found["labelled"], found["group"]) == (64, 6, True, "16")
    assert (found["bundle"], found["source"], found["profile"]["name"]) == (mnist_bundle.name, str(mnist_digits), "c0.3-k2")
    assert found["top1"] == np.mean(logits.argmax(1) == labels)
    assert (found["others"], found["notes"]) == ([], [])
    assert list(found["layers"]) == LAYERS
    for name, layer in found["layers"].items():
        kept, expert = routing[name].kept, routing[name].expert
        assert layer["load"] == [np.count_nonzero(kept & (expert == e)) for e in range(8)]
        assert layer["requested"] == [np.count_nonzero(expert == e) for e in range(8)]
        assert layer["pairs_dropped"] == pytest.approx(1 - kept.mean())
        assert layer["patches_dropped"] == pytest.approx(1 - routing[name].patch_mask().mean())
        assert (sum(layer["gates_kept"]), sum(layer["gates_dropped"])) == (kept.sum(), (~kept).sum())
        assert np.shape(layer["class_weight"]) == (10, 8)
        assert layer["class_images"] == np.bincount(labels, minlength=10).tolist()


def test_the_json_has_the_summary_as_well_and_nothing_for_classes_without_images(
    mnist_bundle: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    images = npz(tmp_path / "x.npz", images=np.zeros((16, 28, 28), np.uint8), labels=np.full(16, 3))
    found = vmoe.json("inspect", mnist_bundle, "--images", images)
    for layer in found.pop("on_images")["layers"].values():
        assert [set(weights) == {None} for weights in layer["class_weight"]] == [index != 3 for index in range(10)]
    assert found == vmoe.json("inspect", mnist_bundle)


def test_other_bundles_stand_beside(
    mnist_bundle: Path, mnist_image_bundle: Path, low_bundle: Path, mnist_digits: Path, vmoe: Vmoe
) -> None:
    words = (mnist_image_bundle, "--compare", low_bundle, "--compare", mnist_bundle, "--images", mnist_digits)
    words = (*words, "--profile", "c0.3-k1")
    found = vmoe.json("inspect", *words)["on_images"]
    assert [(other["bundle"], other["precision"], other["group"]) for other in found["others"]] == [
        (low_bundle.name, "int8", "image"),
        (mnist_bundle.name, "fp32", "16"),
    ]
    for other in found["others"]:
        assert other["agreement"]["images"] == 64
        assert 0.5 < other["agreement"]["same_top1"] <= 1 and other["agreement"]["max_difference"] > 0
        assert list(other["agreement"]["same_experts"]) == LAYERS
    assert low_bundle.name in vmoe.run("inspect", *words)[0]


@pytest.mark.parametrize(
    ("kind", "note", "pictures"),
    [
        ("dense", "A dense ViT has no routers", []),
        ("soft", "A Soft MoE drops nothing", ["classes", "experts", "gates", "load"]),
        ("choice", "the experts choose", ["capacity-encoderblock_1", "classes", "experts", "gates", "load"]),
        ("ensemble", "no top-1", None),
    ],
)
def test_every_kind_says_what_does_not_apply(
    *, kind: str, note: str, pictures: list[str] | None, tmp_path: Path, vmoe: Vmoe
) -> None:
    out, words = tmp_path / "pictures", ("inspect", kept_bundle(kind), "--images", noise(tmp_path / "x.npz", 4))
    more = () if pictures is None else ("--out", out)
    found = vmoe.json(*words, *more)["on_images"]
    assert any(note in sentence for sentence in found["notes"])
    assert list(found["layers"]) == ([] if kind == "dense" else ["encoderblock_1"])
    assert sorted(path.name for path in out.glob("*")) == [f"{picture}.png" for picture in pictures or []]
    assert note in vmoe.run(*words)[0]
