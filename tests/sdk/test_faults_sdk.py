"""Bad calls and bad bundles give the C++ SDK's callers a status with one sentence, and never end their process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import bundle_cases
import c_engine
import numpy as np
import onnx
import pytest
import sdk_build
from bundle_changes import INLINED, MANIFEST, WEIGHTS, flipped
from c_engine import LoadOptions, call, filled
from damaged_files import Edit, assert_one_sentence, copied_bundle, edited_graph

ARGUMENT, BUNDLE, ROUTING, IMAGE, RUNTIME, MEMORY = 1, 2, 3, 4, 5, 6

KEEP: dict[str, object] = {}
OUT = ctypes.byref(ctypes.c_void_p())
LEVELS = np.array([[0.001, 0.001], [0.001, 0.002]])
SPACE = np.full(50, 400, np.int64)  # of any structure that is written to; its size comes first
PROFILE = np.array([120, *[0] * 20])
SEEN, DECISION = filled(c_engine.Seen), filled(c_engine.Decision)


class Calls:
    """An engine, and calls on it that succeed but for what is changed in their arguments."""

    def __init__(self, bundle: Path) -> None:
        self.bundle, self.engine, self.elastic = bytes(bundle), c_engine.loaded(bundle), ctypes.c_void_p()
        # One float more than the images need: a case moves their start.
        self.pixels, self.output = np.zeros(16 * 784 + 1, np.float32), np.empty(160, np.float32)
        self.create(elastic=ctypes.byref(self.elastic))

    def images(self, **changed: object) -> Any:
        fields = {"data": self.pixels.ctypes.data, "data_bytes": 50176, "dtype": 1, "count": 16, "height": 28, "width": 28}
        return filled(c_engine.Images, **fields | {"channels": 1} | changed)

    def load(self, path: bytes | None = None, **changed: object) -> None:
        runtime = {"onnxruntime": bytes(c_engine.onnxruntime_library())}
        call("engine_load", self.bundle if path is None else path, filled(LoadOptions, **runtime | changed), OUT)

    def run(self, images: dict[str, object] | None = KEEP, **changed: Any) -> None:
        given = {"engine": self.engine, "output": self.output, "room": 160}
        engine, output, room = (changed.pop(name, value) for name, value in given.items())
        batch = None if images is None else self.images(**images)
        call("engine_run", engine, batch, filled(c_engine.Setting, **changed), output, room)

    def prepare(self, picture: dict[str, object] | None = KEEP, **changed: Any) -> None:
        fields = {"data": self.output.ctypes.data, "data_bytes": 25, "height": 5, "width": 5, "channels": 1}
        given = {"engine": self.engine, "picture": None if picture is None else filled(c_engine.Picture, **fields | picture)}
        call("engine_prepare_image", *(given | {"image": self.pixels, "size": 784 * 4} | changed).values())

    def warm_up(self, count: int = 16, **changed: object) -> None:
        call("engine_warm_up", self.engine, count, filled(c_engine.Setting, **changed))

    def route(self, **changed: Any) -> None:
        engine, routing = changed.pop("engine", self.engine), changed.pop("routing", OUT)
        call("engine_routing", engine, self.images(), filled(c_engine.Setting, **changed), routing)

    def layer(self, index: int) -> None:
        routing = ctypes.c_void_p()
        self.route(routing=ctypes.byref(routing))
        try:
            call("routing_layer", routing, index, SPACE)
        finally:
            c_engine.free("routing", routing)

    def create(self, **changed: Any) -> None:
        given = {"levels": LEVELS, "count": 2, "elastic": OUT}
        levels, count, elastic = (changed.pop(name, value) for name, value in given.items())
        options = filled(c_engine.ElasticOptions, **{"target": 0.1, "most_images": 1, "multiple": 1} | changed)
        call("elastic_create", options, levels, count, elastic)


CALLS: dict[str, tuple[int, str, Callable[[Calls], None]]] = {
    "load without a path": (ARGUMENT, "path is a null pointer", lambda _: call("engine_load", None, None, OUT)),
    "load without a place for the engine": (
        ARGUMENT, "engine is a null", lambda _: call("engine_load", b"x.vmoe", None, None),
    ),
    "load an empty path": (BUNDLE, "an empty path is not a bundle", lambda c: c.load(b"")),
    "load a folder that is not there": (BUNDLE, "absent.vmoe is not a bundle", lambda c: c.load(b"absent.vmoe")),
    "load a path that is too long": (BUNDLE, "not a bundle", lambda c: c.load(b"x" * 5000)),
    "load a path with a line break": (BUNDLE, "two lines.vmoe", lambda c: c.load(b"two\nlines.vmoe")),
    "load a path that is no text": (BUNDLE, "\ufffd?\ufffd.vmoe", lambda c: c.load(b"\xeb\x88?\xc3.vmoe")),
    "load a file": (BUNDLE, "not a bundle", lambda c: c.load(c.bundle + b"/weights.safetensors")),
    "load a folder that is no bundle": (BUNDLE, MANIFEST, lambda c: c.load(b"/")),
    "load with options of no size": (ARGUMENT, "options has struct_size 0", lambda c: c.load(struct_size=0)),
    "load with options of a later version": (
        ARGUMENT, "options uses fields", lambda c: call("engine_load", c.bundle, np.array([40, 0, 0, 0, 1]), OUT),
    ),
    "load with options of a huge size": (
        ARGUMENT, "options uses fields", lambda c: call("engine_load", c.bundle, np.array([-1, 0, 0, 0, 1]), OUT),
    ),
    "load with a million threads": (RUNTIME, "threads must be", lambda c: c.load(threads=10**6)),
    "load with fewer than no threads": (RUNTIME, "not -1", lambda c: c.load(threads=-1)),
    "load with an unknown profile": (ROUTING, "'fastest'", lambda c: c.load(profile=b"fastest")),
    "load with a profile of too many experts": (ROUTING, "k must be", lambda c: c.load(profile=b"c0.3-k9")),
    "load a runtime that is not there": (
        RUNTIME, "/absent/libonnxruntime.so", lambda c: c.load(onnxruntime=b"/absent/libonnxruntime.so"),
    ),
    "load a runtime that is a text file": (RUNTIME, "/etc/passwd", lambda c: c.load(onnxruntime=b"/etc/passwd")),
    "load a runtime that is another library": (
        RUNTIME, "libm.so.6 is not ONNX Runtime", lambda c: c.load(onnxruntime=b"libm.so.6"),
    ),
    "run without an engine": (ARGUMENT, "engine is a null", lambda c: c.run(engine=None)),
    "prepare without an engine": (ARGUMENT, "engine is a null", lambda c: c.prepare(engine=None)),
    "prepare nothing": (ARGUMENT, "picture is a null pointer", lambda c: c.prepare(None)),
    "prepare a picture of no struct size": (ARGUMENT, "picture has struct_size 0", lambda c: c.prepare({"struct_size": 0})),
    "prepare a picture without data": (ARGUMENT, "data is a null pointer", lambda c: c.prepare({"data": None})),
    "prepare a picture of no height": (IMAGE, "0x5 pixels", lambda c: c.prepare({"height": 0})),
    "prepare a picture of negative sides": (IMAGE, "-5x-5 pixels", lambda c: c.prepare({"height": -5, "width": -5})),
    "prepare a picture of 2^62 rows": (IMAGE, "4611686018427387904x5 pixels", lambda c: c.prepare({"height": 2**62})),
    "prepare another number of bytes": (IMAGE, "26 bytes", lambda c: c.prepare({"data_bytes": 26})),
    "prepare four channels": (IMAGE, "4 channels, and the model takes 1", lambda c: c.prepare({"channels": 4})),
    "prepare into nothing": (ARGUMENT, "memory is a null pointer", lambda c: c.prepare(image=None)),
    "prepare into too little room": (ARGUMENT, "room for 3 bytes", lambda c: c.prepare(size=3)),
    "prepare into memory that is not aligned": (ARGUMENT, "aligned", lambda c: c.prepare(image=c.pixels.view(np.uint8)[1:])),
    "run without images": (ARGUMENT, "images is a null pointer", lambda c: c.run(None)),
    "run without data": (ARGUMENT, "data is a null pointer", lambda c: c.run({"data": None})),
    "run into nothing": (ARGUMENT, "output is a null pointer", lambda c: c.run(output=None)),
    "run into no room": (ARGUMENT, "room for 0 floats", lambda c: c.run(room=0)),
    "run into too little room": (ARGUMENT, "room for 159 floats", lambda c: c.run(room=159)),
    "run images of no size": (ARGUMENT, "images has struct_size 0", lambda c: c.run({"struct_size": 0})),
    "run a setting of no size": (ARGUMENT, "setting has struct_size 8", lambda c: c.run(struct_size=8)),
    "run fewer bytes than the shape says": (IMAGE, "50172 bytes", lambda c: c.run({"data_bytes": 50172})),
    "run more bytes than the shape says": (IMAGE, "50180 bytes", lambda c: c.run({"data_bytes": 50180})),
    "run no images": (IMAGE, "there are no images", lambda c: c.run({"count": 0})),
    "run a negative count": (IMAGE, "-16", lambda c: c.run({"count": -16})),
    "run 2^62 images": (ARGUMENT, "4611686018427387904 images", lambda c: c.run({"count": 2**62})),
    "run a batch that is no multiple of the group": (
        IMAGE, "multiple of 16", lambda c: c.run({"count": 15, "data_bytes": 15 * 784 * 4}),
    ),
    "run another height": (IMAGE, "(16, 32, 28, 1)", lambda c: c.run({"height": 32})),
    "run a negative width": (IMAGE, "(16, 28, -28, 1)", lambda c: c.run({"width": -28})),
    "run three channels": (IMAGE, "(16, 28, 28, 3)", lambda c: c.run({"channels": 3})),
    "run a dtype of 0": (IMAGE, "dtype 0", lambda c: c.run({"dtype": 0})),
    "run a dtype of 99": (IMAGE, "dtype 99", lambda c: c.run({"dtype": 99})),
    "run data that is not aligned": (ARGUMENT, "not aligned", lambda c: c.run({"data": c.pixels.ctypes.data + 1})),
    "run a ratio of 0": (ROUTING, "not 0.0", lambda c: c.run(set=1)),
    "run a negative ratio": (ROUTING, "not -0.3", lambda c: c.run(set=1, capacity_ratio=-0.3)),
    "run a ratio that is no number": (ROUTING, "not nan", lambda c: c.run(set=1, capacity_ratio=nan)),
    "run an infinite ratio": (ROUTING, "ratio inf is larger", lambda c: c.run(set=1, capacity_ratio=inf)),
    "run a ratio above the number of experts": (
        ROUTING, "8.5 is larger than the number of experts", lambda c: c.run(set=1, capacity_ratio=8.5),
    ),
    "run a ratio of 1e308": (ROUTING, "1e+308", lambda c: c.run(set=1, capacity_ratio=1e308)),
    "run a k of 0": (ROUTING, "k must be between 1 and the number of experts, 8, not 0", lambda c: c.run(set=2)),
    "run a negative k": (ROUTING, "not -1", lambda c: c.run(set=2, k=-1)),
    "run a k above the number of experts": (ROUTING, "not 9", lambda c: c.run(set=2, k=9)),
    "run the largest k": (ROUTING, "not 9223372036854775807", lambda c: c.run(set=2, k=2**63 - 1)),
    "run a bpr of 2": (ROUTING, "bpr must be 0 or 1, not 2", lambda c: c.run(set=4, bpr=2)),
    "run a pool of 2": (ROUTING, "pool must be 0 or 1, not 2", lambda c: c.run(set=8, pool=2)),
    "run a limit of no experts": (ROUTING, "max_experts must be at least 1, not 0", lambda c: c.run(set=16)),
    "run a limit of -1 experts": (
        ROUTING, "max_experts must be at least 1, not -1", lambda c: c.run(set=16, max_experts=-1),
    ),
    "run an unknown field": (ARGUMENT, "'set' is 32", lambda c: c.run(set=32)),
    "run an unknown profile": (ROUTING, "there is no profile 'fastest'", lambda c: c.run(profile=b"fastest")),
    "run a profile without a name": (ROUTING, "there is no profile ''", lambda c: c.run(profile=b"")),
    "run a profile of ratio 0": (ROUTING, "not 0.0", lambda c: c.run(profile=b"c0-k1")),
    "run a profile of k 9": (ROUTING, "not 9", lambda c: c.run(profile=b"c0.3-k9")),
    "run a profile of ratio 1e999": (ROUTING, "inf", lambda c: c.run(profile=b"c1e999-k1")),
    "run a profile of ratio 1e-999": (ROUTING, "not 0.0", lambda c: c.run(profile=b"c1e-999-k1")),
    "run a profile with a line break": (ROUTING, "there is no profile 'c0.3-k1 '", lambda c: c.run(profile=b"c0.3-k1\n")),
    "cancellable without an engine": (
        ARGUMENT, "engine is a null", lambda c: call("engine_run_cancellable", None, c.images(), None, None, c.output, 160),
    ),
    "cancellable into nothing": (
        ARGUMENT, "output is a null", lambda c: call("engine_run_cancellable", c.engine, c.images(), None, None, None, 160),
    ),
    "a cancellation without a place for it": (
        ARGUMENT, "cancellation is a null pointer", lambda _: call("cancellation_create", None),
    ),
    "warm up without an engine": (ARGUMENT, "engine is a null", lambda _: call("engine_warm_up", None, 16, None)),
    "warm up no images": (IMAGE, "there are no images", lambda c: c.warm_up(0)),
    "warm up a negative count": (IMAGE, "-16", lambda c: c.warm_up(-16)),
    "warm up no multiple of the group": (IMAGE, "multiple of 16", lambda c: c.warm_up(15)),
    "warm up 2^62 images": (MEMORY, "out of memory", lambda c: c.warm_up(2**62)),
    "warm up 2^50 images": (MEMORY, "out of memory", lambda c: c.warm_up(2**50)),
    "warm up an unknown profile": (ROUTING, "there is no profile 'fastest'", lambda c: c.warm_up(profile=b"fastest")),
    "warm up a setting of no size": (ARGUMENT, "setting has struct_size 8", lambda c: c.warm_up(struct_size=8)),
    "log at level -1": (ARGUMENT, "there is no log level -1", lambda _: call("set_log", -1, None, None, None)),
    "log at level 4": (ARGUMENT, "there is no log level 4", lambda _: call("set_log", 4, None, None, None)),
    "routing without an engine": (ARGUMENT, "engine is a null", lambda c: c.route(engine=None)),
    "routing without a place for it": (ARGUMENT, "routing is a null pointer", lambda c: c.route(routing=None)),
    "routing of a ratio of 0": (ROUTING, "not 0.0", lambda c: c.route(set=1)),
    "a layer of no routing": (ARGUMENT, "routing is a null pointer", lambda _: call("routing_layer", None, 0, SPACE)),
    "a layer that is not there": (ARGUMENT, "there is no MoE layer 5; there are 5", lambda c: c.layer(5)),
    "info of nothing": (ARGUMENT, "engine is a null", lambda _: call("engine_info", None, SPACE)),
    "info of no size": (ARGUMENT, "info has struct_size 0", lambda c: call("engine_info", c.engine, np.zeros(40, np.int64))),
    "a class name where there is none": (
        ARGUMENT, "there is no class name 0; there are 0", lambda c: call("engine_class_name", c.engine, 0, OUT),
    ),
    "MoE layer -1": (ARGUMENT, "there is no MoE layer -1", lambda c: call("engine_moe_layer", c.engine, -1, OUT)),
    "a MoE layer without a place for its name": (
        ARGUMENT, "name is a null pointer", lambda c: call("engine_moe_layer", c.engine, 0, None),
    ),
    "profile 99": (
        ARGUMENT, "there is no profile 99; there are 12", lambda c: call("engine_profile", c.engine, 99, PROFILE, None, 0),
    ),
    "a profile with too little room for its slots": (
        ARGUMENT, "slots has room for 1", lambda c: call("engine_profile", c.engine, 0, PROFILE, SPACE, 1),
    ),
    "a setting without a place for its profile": (
        ARGUMENT, "profile is a null pointer", lambda c: call("engine_setting", c.engine, None, None, None, 0),
    ),
    "elastic capacity without a place for it": (ARGUMENT, "elastic is a null pointer", lambda c: c.create(elastic=None)),
    "elastic capacity without options": (
        ARGUMENT, "options is a null pointer", lambda _: call("elastic_create", None, LEVELS, 2, OUT),
    ),
    "elastic capacity without levels": (ARGUMENT, "levels is a null pointer", lambda c: c.create(levels=None)),
    "elastic capacity of no levels": (ARGUMENT, "1 to 1024 levels, not 0", lambda c: c.create(count=0)),
    "elastic capacity of no size": (ARGUMENT, "options has struct_size 0", lambda c: c.create(struct_size=0)),
    "elastic capacity without a target": (ARGUMENT, "target must be more than 0", lambda c: c.create(target=0.0)),
    "elastic capacity at no time": (ARGUMENT, "time is no finite number", lambda c: c.create(time=nan)),
    "a decision of nothing": (ARGUMENT, "elastic is a null pointer", lambda _: call("elastic_decide", None, SEEN, DECISION)),
    "a decision on nothing": (
        ARGUMENT, "seen is a null pointer", lambda c: call("elastic_decide", c.elastic, None, DECISION),
    ),
    "a decision without a place for it": (
        ARGUMENT, "decision is a null pointer", lambda c: call("elastic_decide", c.elastic, SEEN, None),
    ),
    "a decision on a queue of no size": (
        ARGUMENT, "seen has struct_size 0", lambda c: call("elastic_decide", c.elastic, np.zeros(5, np.int64), DECISION),
    ),
    "a call of a level that is not there": (
        ARGUMENT, "there is no level 2; there are 2", lambda c: call("elastic_served", c.elastic, 2, 1, 1.0),
    ),
    "a call of no images": (
        ARGUMENT, "images must be 1 or more, not 0", lambda c: call("elastic_served", c.elastic, 1, 0, 1.0),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> Path:
    return sdk_build.programs(sdk_build.prefixes().standard_ops, "sdk_c_only", "sdk_runner")


@pytest.fixture(scope="module")
def calls(mnist_bundle: Path) -> Iterator[Calls]:
    if c_engine.sdk() is None:
        pytest.skip("this installation has no C++ SDK")
    made = Calls(mnist_bundle)
    yield made
    c_engine.free("engine", made.engine)
    c_engine.free("elastic", made.elastic)


@pytest.mark.parametrize(("code", "words", "make"), CALLS.values(), ids=CALLS)
def test_a_bad_call_gives_a_status(code: int, words: str, make: Callable[[Calls], None], calls: Calls) -> None:
    calls.run()  # so no bad one left anything behind
    calls.prepare()
    with pytest.raises(c_engine.RefusedError) as refused:
        make(calls)
    assert refused.value.code == code
    assert_one_sentence(str(refused.value), words)


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
