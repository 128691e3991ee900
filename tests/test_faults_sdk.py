"""Bad calls and bad bundles give the C++ SDK's callers a status with one sentence, and never end their process."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import sdk_build
from damaged_files import (
    Edit,
    assert_one_sentence,
    copied_bundle,
    drop,
    edited_graph,
    external_tensor,
    put,
)

from vmoe_runtime import BundleError
from vmoe_runtime.external_data import external_data
from vmoe_runtime.manifest import parse_manifest

ARGUMENT, BUNDLE, ROUTING, IMAGE, RUNTIME = 1, 2, 3, 4, 5
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
CANONICAL, INLINED = "model.onnx", "model.inlined.onnx"

CALLS: dict[str, tuple[int, str]] = {
    "load without a path": (ARGUMENT, "path is a null pointer"),
    "load without a place for the engine": (ARGUMENT, "engine is a null pointer"),
    "load an empty path": (BUNDLE, "an empty path is not a bundle"),
    "load a folder that is not there": (BUNDLE, "absent.vmoe is not a bundle"),
    "load a path that is too long": (BUNDLE, "not a bundle"),
    "load a path with a line break": (BUNDLE, "two lines.vmoe"),
    "load a file": (BUNDLE, "not a bundle"),
    "load a folder that is no bundle": (BUNDLE, MANIFEST),
    "load with options of no size": (ARGUMENT, "options has struct_size 0"),
    "load with options of a later version": (ARGUMENT, "options uses fields"),
    "load with options of a huge size": (ARGUMENT, "options uses fields"),
    "load with a million threads": (RUNTIME, "threads must be"),
    "load with fewer than no threads": (RUNTIME, "not -1"),
    "load with an unknown profile": (ROUTING, "'fastest'"),
    "load with a profile of too many experts": (ROUTING, "k must be"),
    "load a runtime that is not there": (RUNTIME, "/absent/libonnxruntime.so"),
    "load a runtime that is a text file": (RUNTIME, "/etc/passwd"),
    "load a runtime that is another library": (RUNTIME, "libm.so.6 is not ONNX Runtime"),
    "run without an engine": (ARGUMENT, "engine is a null pointer"),
    "run without images": (ARGUMENT, "images is a null pointer"),
    "run without data": (ARGUMENT, "data is a null pointer"),
    "run into nothing": (ARGUMENT, "output is a null pointer"),
    "run into no room": (ARGUMENT, "room for 0 floats"),
    "run into too little room": (ARGUMENT, "room for 159 floats"),
    "run images of no size": (ARGUMENT, "images has struct_size 0"),
    "run a setting of no size": (ARGUMENT, "setting has struct_size 8"),
    "run fewer bytes than the shape says": (IMAGE, "50172 bytes"),
    "run more bytes than the shape says": (IMAGE, "50180 bytes"),
    "run no images": (IMAGE, "there are no images"),
    "run a negative count": (IMAGE, "-16"),
    "run 2^62 images": (ARGUMENT, "4611686018427387904 images"),
    "run a batch that is no multiple of the group": (IMAGE, "multiple of 16"),
    "run another height": (IMAGE, "(16, 32, 28, 1)"),
    "run a negative width": (IMAGE, "(16, 28, -28, 1)"),
    "run three channels": (IMAGE, "(16, 28, 28, 3)"),
    "run a dtype of 0": (IMAGE, "dtype 0"),
    "run a dtype of 99": (IMAGE, "dtype 99"),
    "run data that is not aligned": (ARGUMENT, "not aligned"),
    "run a ratio of 0": (ROUTING, "not 0.0"),
    "run a negative ratio": (ROUTING, "not -0.3"),
    "run a ratio that is no number": (ROUTING, "not nan"),
    "run an infinite ratio": (ROUTING, "ratio inf is larger"),
    "run a ratio above the number of experts": (ROUTING, "8.5 is larger than the number of experts"),
    "run a ratio of 1e308": (ROUTING, "1e+308"),
    "run a k of 0": (ROUTING, "k must be between 1 and the number of experts, 8, not 0"),
    "run a negative k": (ROUTING, "not -1"),
    "run a k above the number of experts": (ROUTING, "not 9"),
    "run the largest k": (ROUTING, "not 9223372036854775807"),
    "run a bpr of 2": (ROUTING, "bpr must be 0 or 1, not 2"),
    "run an unknown field": (ARGUMENT, "'set' is 8"),
    "run an unknown profile": (ROUTING, "there is no profile 'fastest'"),
    "run a profile without a name": (ROUTING, "there is no profile ''"),
    "run a profile of ratio 0": (ROUTING, "not 0.0"),
    "run a profile of k 9": (ROUTING, "not 9"),
    "run a profile of ratio 1e999": (ROUTING, "inf"),
    "run a profile of ratio 1e-999": (ROUTING, "not 0.0"),
    "run a profile with a line break": (ROUTING, "there is no profile 'c0.3-k1 '"),
    "routing without an engine": (ARGUMENT, "engine is a null pointer"),
    "routing without a place for it": (ARGUMENT, "routing is a null pointer"),
    "routing of a ratio of 0": (ROUTING, "not 0.0"),
    "a layer of no routing": (ARGUMENT, "routing is a null pointer"),
    "a layer that is not there": (ARGUMENT, "there is no MoE layer 5; there are 5"),
    "info of nothing": (ARGUMENT, "engine is a null pointer"),
    "info of no size": (ARGUMENT, "info has struct_size 0"),
    "a class name where there is none": (ARGUMENT, "there is no class name 0; there are 0"),
    "MoE layer -1": (ARGUMENT, "there is no MoE layer -1"),
    "a MoE layer without a place for its name": (ARGUMENT, "name is a null pointer"),
    "profile 99": (ARGUMENT, "there is no profile 99; there are 12"),
    "a profile with too little room for its capacity": (ARGUMENT, "capacity has room for 1"),
    "a setting without a place for its profile": (ARGUMENT, "profile is a null pointer"),
}


@pytest.fixture(scope="module")
def programs() -> Path:
    return sdk_build.programs(sdk_build.prefixes().standard_ops, "sdk_bad_calls", "sdk_c_only", "sdk_runner")


@pytest.mark.parametrize(("name", "code", "words"), [(name, *rest) for name, rest in CALLS.items()], ids=list(CALLS))
def test_a_bad_call_gives_a_status(name: str, code: int, words: str, programs: Path, mnist_bundle: Path) -> None:
    done = sdk_build.run(programs / "sdk_bad_calls", mnist_bundle, sdk_build.onnxruntime_library(), name)
    assert (done.returncode, done.stderr) == (0, "")
    found, sentence = done.stdout.removesuffix("\n").split("\t", 1)
    assert int(found) == code
    assert_one_sentence(sentence, words)


def status(programs: Path, bundle: Path) -> tuple[int, str]:
    """Code and sentence of loading a bundle."""
    done = sdk_build.run(programs / "sdk_c_only", bundle, sdk_build.onnxruntime_library())
    assert (done.returncode, done.stderr) == (0, "")
    _, code, sentence = done.stdout.removesuffix("\n").split(" ", 2)
    return int(code), sentence


def changed(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data)

    return change


def cut_weights(bundle: Path) -> None:
    os.truncate(bundle / WEIGHTS, 1000)


def remove_graph(bundle: Path) -> None:
    (bundle / INLINED).unlink()


def link_weights(bundle: Path) -> None:
    (bundle / WEIGHTS).rename(bundle.parent / "outside")
    (bundle / WEIGHTS).symlink_to(bundle.parent / "outside")


def link_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).rename(bundle.parent / "outside")
    (bundle / MANIFEST).symlink_to(bundle.parent / "outside")


def pipe_as_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)


def folder_as_graph(bundle: Path) -> None:
    (bundle / CANONICAL).unlink()
    (bundle / CANONICAL).mkdir()


def remove_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()


FILES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "weights with a bit changed": (changed(WEIGHTS), (WEIGHTS, "changed after export")),
    "a graph with a bit changed": (changed(CANONICAL), (CANONICAL, "changed after export")),
    "weights cut short": (cut_weights, (WEIGHTS, "1000 bytes")),
    "a graph missing": (remove_graph, (INLINED, "No such file")),
    "weights behind a link": (link_weights, (WEIGHTS, "link")),
    "a manifest behind a link": (link_manifest, (MANIFEST, "link")),
    "a pipe as manifest": (pipe_as_manifest, (MANIFEST, "pipe")),
    "a folder as graph": (folder_as_graph, (CANONICAL, "folder")),
    "no manifest": (remove_manifest, (MANIFEST, "No such file")),
}


@pytest.mark.parametrize(("damage", "names"), FILES.values(), ids=FILES)
def test_a_bundle_is_refused_with(
    damage: Callable[[Path], None], names: tuple[str, ...], programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    damage(bundle)
    code, sentence = status(programs, bundle)
    assert code == BUNDLE
    assert_one_sentence(sentence, "x.vmoe", *names)


TEXTS = {
    "nothing": b"",
    "a list": b"[]",
    "half an object": b'{"format": "vmoe-bundle", ',
    "bytes that are no text": b"\xff\xfe\x00",
    "100,000 nested lists": b"[" * 100_000,
    "a number of 5000 digits": b'{"format": "vmoe-bundle", "format_version": ' + b"1" * 5000 + b"}",
    "17 MiB of spaces": b" " * (17 << 20),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_manifest_is_refused_that_is(text: bytes, programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    (bundle / MANIFEST).write_bytes(text)
    code, sentence = status(programs, bundle)
    assert code == BUNDLE
    assert_one_sentence(sentence, "x.vmoe", MANIFEST)


def file_named(name: str) -> Edit:
    return lambda manifest: manifest["files"].update({name: manifest["files"][WEIGHTS]})


EDITS: dict[str, tuple[Edit, str]] = {
    "another format": (put("format", "zip"), "not the manifest"),
    "a newer format": (put("format_version", 3), "format version 3"),
    "format version 0": (put("format_version", 0), "format_version is 0"),
    "a format version that is true": (put("format_version", True), "'format_version'"),
    "no model": (drop("model"), "'model'"),
    "no input": (drop("input"), "'input'"),
    "an unknown dtype": (put("input/dtype", "float64"), "'float64'"),
    "a height of 0": (put("input/height", 0), "'height' is 0"),
    "a width of a million": (put("input/width", 10**6), "'width' is 1000000"),
    "channels as text": (put("input/channels", "3"), "'channels'"),
    "an unknown output": (put("output/name", "loss"), "'loss'"),
    "an output of 2^40 floats": (put("output/size", 2**40), "'size'"),
    "a batch multiple of 0": (put("batch_multiple", 0), "'batch_multiple'"),
    "class names too few": (put("class_names", ["one"]), "class_names must be 10 strings"),
    "class names that are numbers": (put("class_names", [1] * 10), "class_names must be 10 strings"),
    "an unknown precision": (put("precision", "int4"), "'int4'"),
    "the precision of TensorRT graphs": (put("precision", "fp16"), "'fp16'"),
    "a precision that is null": (put("precision", None), "'precision'"),
    "a precision that is a number": (put("precision", 8), "'precision'"),
    "version 1 and int8": (lambda m: m.update(format_version=1, precision="int8"), "'int8'"),
    "version 1 and bf16-experts": (lambda m: m.update(format_version=1, precision="bf16-experts"), "'bf16-experts'"),
    "routing that is a list": (put("routing", []), "'routing'"),
    "no MoE layers": (put("routing/layers", []), "'layers'"),
    "a MoE layer with a path": (put("routing/layers/0", "encoderblock_0/../x"), "'layers'"),
    "no experts": (put("routing/num_experts", 0), "'num_experts'"),
    "2^60 tokens": (put("routing/group_tokens", 2**60), "'group_tokens'"),
    "rounding down": (put("routing/rounding", "floor"), "'floor'"),
    "no profiles": (put("profiles", []), "at least one profile"),
    "a profile of another capacity": (put("profiles/0/capacity/0", 11), "c0.1-k1"),
    "a profile of k 9": (put("profiles/0/k", 9), "k must be"),
    "a profile of another name": (put("profiles/0/name", "fast"), "'fast'"),
    "two profiles of one name": (lambda m: m["profiles"].append(m["profiles"][0]), "two profiles 'c0.1-k1'"),
    "profiles of a dense model": (put("routing", None), "dense model"),
    "a file with a path": (file_named("../x"), "'../x'"),
    "a file with a line break": (file_named("a\nb"), "'a b'"),
    "the manifest among its files": (file_named(MANIFEST), MANIFEST),
    "a file that is not there": (file_named("more.bin"), "more.bin"),
    "a SHA-256 too short": (put(f"files/{WEIGHTS}/sha256", "ab"), "no SHA-256"),
    "no weights": (drop(f"files/{WEIGHTS}"), f"no {WEIGHTS}"),
}


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
def test_a_manifest_is_refused_that_says(edit: Edit, words: str, programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    code, sentence = status(programs, copied_bundle(mnist_bundle, tmp_path / "x.vmoe", edit))
    assert code == BUNDLE
    assert_one_sentence(sentence, "x.vmoe", words)


LOCATIONS: dict[str, tuple[dict[str, str], str]] = {
    "in a folder above": ({"location": "../x"}, "'../x'"),
    "at an absolute path": ({"location": "/etc/passwd"}, "'/etc/passwd'"),
    "in the manifest": ({"location": MANIFEST}, "'manifest.json'"),
    "past the end": ({"offset": "9999999999"}, "past the end"),
    "at a negative offset": ({"offset": "-4"}, "'-4'"),
    "of endless length": ({"length": "9" * 19}, "not a number of bytes"),
}


@pytest.mark.parametrize(("entries", "words"), LOCATIONS.values(), ids=LOCATIONS)
def test_a_graph_is_refused_with_data(
    entries: dict[str, str], words: str, programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    data = edited_graph(mnist_bundle, lambda model: model.graph.initializer.append(external_tensor(**entries)))
    code, sentence = status(programs, copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}))
    assert code == BUNDLE
    assert_one_sentence(sentence, INLINED, words)


def unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def weights_of_another_shape(model: onnx.ModelProto) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.external_data).dims[0] *= 2


@pytest.mark.parametrize("edit", [unknown_op, weights_of_another_shape], ids=lambda edit: edit.__name__.replace("_", " "))
def test_a_graph_that_cannot_be_loaded_is_named_and_the_runtime_prints_nothing(
    edit: Edit, programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    data = edited_graph(mnist_bundle, edit)
    code, sentence = status(programs, copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}))
    assert code == RUNTIME
    assert_one_sentence(sentence, f"x.vmoe/{INLINED}")


def dense(manifest: dict[str, object]) -> None:
    manifest.update(routing=None, profiles=[], batch_multiple=1)


CONTRADICTIONS: dict[str, tuple[Edit, str]] = {
    "dense": (dense, "the graph takes bpr, capacity, image, k, not image"),
    "of features": (put("output/name", "features"), "features"),
    "of 11 classes": (put("output/size", 11), "float32[16,11]"),
    "of uint8 images": (put("input/dtype", "uint8"), "uint8"),
}


@pytest.mark.parametrize(("edit", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_graph_that_contradicts_its_manifest_fails_in_the_call(
    edit: Edit, words: str, programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe", edit)
    (tmp_path / "images").write_bytes(bytes(16 * 28 * 28))
    command = "\t".join(["run", *"----", "uint8", "16", str(tmp_path / "images"), str(tmp_path / "output")])
    done = sdk_build.run(programs / "sdk_runner", bundle, sdk_build.onnxruntime_library(), "1", text=command + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    verdict, code, sentence = done.stdout.removesuffix("\n").split("\t", 2)
    assert (verdict, int(code)) == ("error", RUNTIME)
    assert_one_sentence(sentence, words)


def test_weights_changed_after_a_load_are_found_by_the_next_one(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    assert status(programs, bundle)[0] == 0
    changed(WEIGHTS)(bundle)
    assert status(programs, bundle)[0] == BUNDLE


def test_no_onnxruntime_at_all_is_one_sentence(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    # One that is installed would be found further down the library path.
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).write_text("this is no library")
    variables = {"VMOE_ONNXRUNTIME": "", "LD_LIBRARY_PATH": str(tmp_path)}
    done = sdk_build.run(programs / "sdk_runner", mnist_bundle, "", "1", **variables)
    assert done.returncode == 1
    assert_one_sentence(done.stdout.split("\t", 2)[2].removesuffix("\n"), "ONNX Runtime was not found", "VMOE_ONNXRUNTIME")


def test_an_onnxruntime_that_is_too_old_is_not_asked_for_anything(
    programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    library = tmp_path / "libonnxruntime.so.1.20.2"
    sdk_build.built("cc", "-shared", "-fPIC", "-o", library, sdk_build.SOURCES / "sdk_old_onnxruntime.c")
    done = sdk_build.run(programs / "sdk_runner", mnist_bundle, library, "1")
    assert done.returncode == 1
    assert_one_sentence(done.stdout.split("\t", 2)[2].removesuffix("\n"), "1.20.2", str(library), "too old; 1.21")


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The data with bytes changed, taken out, doubled or swapped for others that mean something."""
    chance = random.Random(seed)
    telling = [b"0", b"-1", b"null", b"true", b"[]", b"{}", b'""', b"\x00", b"\xff", b"\\u0000", b"9" * 30, b"0.5"]
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            start = chance.randrange(len(changed))
            stop = min(len(changed), start + chance.choice((0, 1, 1, 4, 40)))
            how = chance.randrange(3)
            changed[start:stop] = (
                bytes([chance.randrange(256)]) * (stop - start) if how == 0
                else chance.choice(telling) if how == 1
                else changed[start:stop] * chance.choice((0, 2))
            )  # fmt: skip
            changed = changed or bytearray(b" ")
        yield bytes(changed)


def accepted(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except BundleError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "file", "read"), [("m", MANIFEST, parse_manifest), ("g", CANONICAL, external_data)], ids=["manifest", "graph"]
)
def test_mutated_files_are_accepted_and_refused_as_in_python(
    kind: str, file: str, read: Callable[[bytes], object], mnist_bundle: Path, tmp_path: Path
) -> None:
    data = (mnist_bundle / file).read_bytes()
    tried = [data, data + b"\0", data + b"\0{", *mutations(data, 3000 if kind == "m" else 300, seed=11)]
    stream = tmp_path / "stream"
    stream.write_bytes(b"".join(kind.encode() + struct.pack("=I", len(item)) + item for item in tried))
    with stream.open("rb") as given:
        done = subprocess.run([sdk_build.readers()], stdin=given, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    verdicts = done.stdout.decode().splitlines()
    assert len(verdicts) == len(tried)
    expected = [accepted(read, item) for item in tried]
    different = [i for i, (verdict, ok) in enumerate(zip(verdicts, expected, strict=True)) if (verdict == "ok") != ok]
    assert not different, [(verdicts[i], tried[i]) for i in different]
    assert 0.02 < sum(expected) / len(expected) < 0.98
