"""Bad calls and bad bundles give the C++ SDK's callers a status with one sentence, and never end their process."""

from __future__ import annotations

from pathlib import Path

import bundle_cases
import onnx
import pytest
import sdk_build
from bundle_changes import INLINED, MANIFEST, WEIGHTS, flipped
from damaged_files import Edit, assert_one_sentence, copied_bundle, edited_graph

ARGUMENT, BUNDLE, ROUTING, IMAGE, RUNTIME, MEMORY = 1, 2, 3, 4, 5, 6

CALLS: dict[str, tuple[int, str]] = {
    "load without a path": (ARGUMENT, "path is a null pointer"),
    "load without a place for the engine": (ARGUMENT, "engine is a null pointer"),
    "load an empty path": (BUNDLE, "an empty path is not a bundle"),
    "load a folder that is not there": (BUNDLE, "absent.vmoe is not a bundle"),
    "load a path that is too long": (BUNDLE, "not a bundle"),
    "load a path with a line break": (BUNDLE, "two lines.vmoe"),
    "load a path that is no text": (BUNDLE, "\ufffd\ufffd?\ufffd.vmoe"),
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
    "prepare without an engine": (ARGUMENT, "engine is a null pointer"),
    "prepare nothing": (ARGUMENT, "picture is a null pointer"),
    "prepare a picture of no struct size": (ARGUMENT, "picture has struct_size 0"),
    "prepare a picture without data": (ARGUMENT, "data is a null pointer"),
    "prepare a picture of no height": (IMAGE, "0x5 pixels"),
    "prepare a picture of negative sides": (IMAGE, "-5x-5 pixels"),
    "prepare a picture of 2^62 rows": (IMAGE, "4611686018427387904x5 pixels"),
    "prepare another number of bytes": (IMAGE, "26 bytes"),
    "prepare four channels": (IMAGE, "4 channels, and the model takes 1"),
    "prepare into nothing": (ARGUMENT, "memory is a null pointer"),
    "prepare into too little room": (ARGUMENT, "room for 3 bytes"),
    "prepare into memory that is not aligned": (ARGUMENT, "not aligned"),
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
    "run a pool of 2": (ROUTING, "pool must be 0 or 1, not 2"),
    "run a limit of no experts": (ROUTING, "max_experts must be at least 1, not 0"),
    "run a limit of -1 experts": (ROUTING, "max_experts must be at least 1, not -1"),
    "run an unknown field": (ARGUMENT, "'set' is 32"),
    "run an unknown profile": (ROUTING, "there is no profile 'fastest'"),
    "run a profile without a name": (ROUTING, "there is no profile ''"),
    "run a profile of ratio 0": (ROUTING, "not 0.0"),
    "run a profile of k 9": (ROUTING, "not 9"),
    "run a profile of ratio 1e999": (ROUTING, "inf"),
    "run a profile of ratio 1e-999": (ROUTING, "not 0.0"),
    "run a profile with a line break": (ROUTING, "there is no profile 'c0.3-k1 '"),
    "cancellable without an engine": (ARGUMENT, "engine is a null pointer"),
    "cancellable into nothing": (ARGUMENT, "output is a null pointer"),
    "a cancellation without a place for it": (ARGUMENT, "cancellation is a null pointer"),
    "warm up without an engine": (ARGUMENT, "engine is a null pointer"),
    "warm up no images": (IMAGE, "there are no images"),
    "warm up a negative count": (IMAGE, "-16"),
    "warm up no multiple of the group": (IMAGE, "multiple of 16"),
    "warm up 2^62 images": (MEMORY, "out of memory"),
    "warm up 2^50 images": (MEMORY, "out of memory"),
    "warm up an unknown profile": (ROUTING, "there is no profile 'fastest'"),
    "warm up a setting of no size": (ARGUMENT, "setting has struct_size 8"),
    "log at level -1": (ARGUMENT, "there is no log level -1"),
    "log at level 4": (ARGUMENT, "there is no log level 4"),
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
    "a profile with too little room for its slots": (ARGUMENT, "slots has room for 1"),
    "a setting without a place for its profile": (ARGUMENT, "profile is a null pointer"),
    "elastic capacity without a place for it": (ARGUMENT, "elastic is a null pointer"),
    "elastic capacity without options": (ARGUMENT, "options is a null pointer"),
    "elastic capacity without levels": (ARGUMENT, "levels is a null pointer"),
    "elastic capacity of no levels": (ARGUMENT, "1 to 1024 levels, not 0"),
    "elastic capacity of no size": (ARGUMENT, "options has struct_size 0"),
    "elastic capacity without a target": (ARGUMENT, "target must be more than 0"),
    "elastic capacity at no time": (ARGUMENT, "time is no finite number"),
    "a decision of nothing": (ARGUMENT, "elastic is a null pointer"),
    "a decision on nothing": (ARGUMENT, "seen is a null pointer"),
    "a decision without a place for it": (ARGUMENT, "decision is a null pointer"),
    "a decision on a queue of no size": (ARGUMENT, "seen has struct_size 0"),
    "a call of a level that is not there": (ARGUMENT, "there is no level 2; there are 2"),
    "a call of no images": (ARGUMENT, "images must be 1 or more, not 0"),
}


@pytest.fixture(scope="module")
def programs() -> Path:
    return sdk_build.programs(sdk_build.prefixes().standard_ops, "sdk_bad_calls", "sdk_c_only", "sdk_runner")


@pytest.fixture(scope="module")
def statuses(programs: Path, mnist_bundle: Path) -> dict[str, str]:
    """What each bad call gives: "CODE<tab>SENTENCE". All are made on one engine."""
    done = sdk_build.run(programs / "sdk_bad_calls", mnist_bundle, sdk_build.onnxruntime_library(), *CALLS)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(CALLS, done.stdout.removesuffix("\n").split("\n"), strict=True))


@pytest.mark.parametrize(("name", "code", "words"), [(name, *rest) for name, rest in CALLS.items()], ids=list(CALLS))
def test_a_bad_call_gives_a_status(name: str, code: int, words: str, statuses: dict[str, str]) -> None:
    found, sentence = statuses[name].split("\t", 1)
    assert int(found) == code
    assert_one_sentence(sentence, words)


def status(programs: Path, bundle: Path) -> tuple[int, str]:
    """Code and sentence of loading a bundle."""
    done = sdk_build.run(programs / "sdk_c_only", bundle, sdk_build.onnxruntime_library())
    assert (done.returncode, done.stderr) == (0, "")
    _, code, sentence = done.stdout.removesuffix("\n").split(" ", 2)
    return int(code), sentence


@pytest.mark.parametrize(
    "name",
    [
        "weights with one bit changed",
        "weights cut short",
        "a graph behind a link",
        "a manifest that is missing",
        "a pipe as manifest",
        "100,000 lists",
        "an output of 2^24 + 1 floats",
        "a profile of k 9",
        "tensorrt of no graphs",
    ],
)
def test_a_bundle_is_refused(name: str, programs: Path, tmp_path: Path) -> None:
    # Each is on the list that both readers are held to.
    case = next(case for case in bundle_cases.CASES if case.name == name)
    code, sentence = status(programs, case.build(tmp_path))
    assert code == BUNDLE
    assert_one_sentence(sentence, "x.vmoe", *case.words)


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


def test_weights_changed_after_a_load_are_found_by_the_next_one(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    assert status(programs, bundle)[0] == 0
    flipped(WEIGHTS)(bundle)
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
