"""Check that the C++ SDK returns a status with one sentence after a bad call or for a bad bundle.

It must never end the process.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from ctypes import byref
from pathlib import Path
from typing import Any

import bundle_cases
import c_engine
import numpy as np
import pytest
import sdk_build
from bundle_changes import INLINED, MANIFEST, WEIGHTS, flipped
from c_engine import call
from damaged_files import GRAPH_FAULTS, Edit, assert_one_sentence, copied_bundle, edited_graph, with_nan_weights

from vmoe_runtime.installation import oldest_supported

pytestmark = pytest.mark.fast

ARGUMENT, BUNDLE, ROUTING, IMAGE, RUNTIME, MEMORY = 1, 2, 3, 4, 5, 6
NOWHERE = byref(ctypes.c_void_p())  # where a call would store its result if it succeeded
RATIO, BPR, POOL = 1, 4, 8  # VMOE_SET_*


class Call:
    """Valid arguments for calls on an MNIST engine. Each test case makes one of the arguments invalid."""

    def __init__(self, engine: ctypes.c_void_p, bundle: Path) -> None:
        self.engine, self.bundle = engine, bytes(bundle)
        self.pixels, self.output = np.zeros((16, 28, 28, 1), np.float32), np.zeros(160, np.float32)

    def load(self, bundle: bytes | None = None, **options: Any) -> None:
        c_engine.load(self.bundle if bundle is None else bundle, **options)

    def images(self, **fields: Any) -> Any:
        return _replaced(c_engine.Images(self.pixels.ctypes.data, self.pixels.nbytes, 1, 0, 16, 28, 28, 1), fields)

    def run(self, room: int = 160, output: int | None = 1, setting: dict[str, Any] | None = None, **fields: Any) -> None:
        given = _replaced(c_engine.Setting(), setting or {})
        target = self.output.ctypes.data if output else None
        call("vmoe_engine_run", self.engine, byref(self.images(**fields)), byref(given), target, room)

    def run_value(self, value: float, function: str = "vmoe_engine_run") -> None:
        pixels = self.pixels.copy()
        pixels.flat[-1] = value
        rest = () if function == "vmoe_engine_check_images" else (None, self.output.ctypes.data, 160)
        call(function, self.engine, byref(self.images(data=pixels.ctypes.data)), *rest)

    def set(self, **setting: Any) -> None:
        self.run(setting=setting)

    def prepare(self, target: int | None = 0, room: int = 28 * 28 * 4, **fields: Any) -> None:
        picture = _replaced(c_engine.Picture(self.pixels.ctypes.data, 25, 5, 5, 1), fields)
        target = None if target is None else self.pixels.ctypes.data + target
        call("vmoe_engine_prepare_image", self.engine, byref(picture), target, room)

    def warm_up(self, count: int, **setting: Any) -> None:
        call("vmoe_engine_warm_up", self.engine, count, byref(_replaced(c_engine.Setting(), setting)))

    def elastic(self, **fields: Any) -> ctypes.c_void_p:
        created = ctypes.c_void_p()
        options = _replaced(c_engine.ElasticOptions(0.1, 16, 16, 0.0), fields)
        values = (ctypes.c_double * 4)(0.001, 0.001, 0.001, 0.002)
        call("vmoe_elastic_create", byref(options), values, 2, byref(created))
        return created


def _replaced(struct: Any, fields: dict[str, Any]) -> Any:
    for name, value in fields.items():
        setattr(struct, name, value)
    return struct


CALLS: dict[str, tuple[int, str, Callable[[Call], object]]] = {
    "load without a path": (ARGUMENT, "path is a null pointer", lambda c: call("vmoe_engine_load", None, None, NOWHERE)),
    "load without an engine": (
        ARGUMENT, "engine is a null pointer",
        lambda c: call("vmoe_engine_load", c.bundle, None, None),
    ),
    "load an empty path": (BUNDLE, "an empty path is not a bundle", lambda c: c.load(b"")),
    "load a folder that is not there": (BUNDLE, "absent.vmoe is not a bundle", lambda c: c.load(b"absent.vmoe")),
    "load a path that is too long": (BUNDLE, "not a bundle", lambda c: c.load(b"x" * 5000)),
    "load a path with a line break": (BUNDLE, "two lines.vmoe", lambda c: c.load(b"two\nlines.vmoe")),
    "load a path that is no text": (BUNDLE, "\ufffd?\ufffd.vmoe", lambda c: c.load(b"\xeb\x88?\xc3.vmoe")),
    "load a file": (BUNDLE, "a bundle is a folder", lambda c: c.load(c.bundle + b"/weights.safetensors")),
    "load a folder that is no bundle": (BUNDLE, MANIFEST, lambda c: c.load(b"/")),
    "options of no size": (ARGUMENT, "options has struct_size 0", lambda c: c.load(struct_size=0)),
    "options of a huge size": (ARGUMENT, "options uses fields", lambda c: c.load(struct_size=2**64 - 1)),
    "options of a later version": (ARGUMENT, "options uses fields", lambda c: c.load(reserved=1)),
    "images of a later version": (ARGUMENT, "images uses fields", lambda c: c.run(reserved=1)),
    "a setting of a later version": (ARGUMENT, "setting uses fields", lambda c: c.set(reserved=1)),
    "a picture of a later version": (ARGUMENT, "picture uses fields", lambda c: c.prepare(reserved=1)),
    "run for no outputs": (
        ARGUMENT, "there must be an output",
        lambda c: call("vmoe_engine_run_outputs", c.engine, byref(c.images()), None, None, NOWHERE, NOWHERE, NOWHERE, 0),
    ),
    "a million threads": (RUNTIME, "threads must be", lambda c: c.load(threads=10**6)),
    "a thousand threads": (RUNTIME, "on this machine", lambda c: c.load(threads=1024)),
    "fewer than no threads": (RUNTIME, "not -1", lambda c: c.load(threads=-1)),
    "load an unknown profile": (ROUTING, "'fastest'", lambda c: c.load(profile=b"fastest")),
    "load a profile of too many experts": (ROUTING, "k must be", lambda c: c.load(profile=b"c0.3-k9")),
    "a runtime that is not there": (RUNTIME, "/absent/x.so", lambda c: c.load(onnxruntime=b"/absent/x.so")),
    "a runtime that is a text file": (RUNTIME, "/etc/passwd", lambda c: c.load(onnxruntime=b"/etc/passwd")),
    "another library": (RUNTIME, "libm.so.6 is not ONNX Runtime", lambda c: c.load(onnxruntime=b"libm.so.6")),
    "prepare without an engine": (ARGUMENT, "engine is", lambda c: call("vmoe_engine_prepare_image", None, None, None, 0)),
    "prepare nothing": (ARGUMENT, "picture is", lambda c: call("vmoe_engine_prepare_image", c.engine, None, None, 0)),
    "a picture of no struct size": (ARGUMENT, "picture has struct_size 0", lambda c: c.prepare(struct_size=0)),
    "a picture without data": (ARGUMENT, "data is a null pointer", lambda c: c.prepare(data=None)),
    "a picture of no height": (IMAGE, "0x5 pixels", lambda c: c.prepare(height=0)),
    "a picture of 2^62 rows": (IMAGE, "4611686018427387904x5 pixels", lambda c: c.prepare(height=2**62)),
    "another number of bytes": (IMAGE, "26 bytes", lambda c: c.prepare(data_bytes=26)),
    "four channels": (IMAGE, "4 channels, and the model takes 1", lambda c: c.prepare(channels=4)),
    "prepare into nothing": (ARGUMENT, "memory is a null pointer", lambda c: c.prepare(target=None)),
    "prepare into too little room": (ARGUMENT, "room for 3 bytes", lambda c: c.prepare(room=3)),
    "prepare into memory that is not aligned": (ARGUMENT, "not aligned", lambda c: c.prepare(target=1)),
    "run without an engine": (
        ARGUMENT, "engine is",
        lambda c: call("vmoe_engine_run", None, byref(c.images()), None, None, 0),
    ),
    "run without images": (ARGUMENT, "images is", lambda c: call("vmoe_engine_run", c.engine, None, None, None, 0)),
    "run without data": (ARGUMENT, "data is a null pointer", lambda c: c.run(data=None)),
    "run without data or room": (ARGUMENT, "data is a null pointer", lambda c: c.run(data=None, room=0)),
    "run into nothing": (ARGUMENT, "output is a null pointer", lambda c: c.run(output=None)),
    "run into no room": (ARGUMENT, "room for 0 floats", lambda c: c.run(room=0)),
    "run into too little room": (ARGUMENT, "room for 159 floats", lambda c: c.run(room=159)),
    "images of no size": (ARGUMENT, "images has struct_size 0", lambda c: c.run(struct_size=0)),
    "a setting of no size": (ARGUMENT, "setting has struct_size 8", lambda c: c.set(struct_size=8)),
    "fewer bytes than the shape says": (IMAGE, "50172 bytes", lambda c: c.run(data_bytes=50172)),
    "more bytes than the shape says": (IMAGE, "50180 bytes", lambda c: c.run(data_bytes=50180)),
    "no images": (IMAGE, "there are no images", lambda c: c.run(count=0)),
    "a negative count": (IMAGE, "-16", lambda c: c.run(count=-16)),
    "2^62 images": (ARGUMENT, "4611686018427387904 images", lambda c: c.run(count=2**62)),
    "no multiple of the group": (IMAGE, "multiple of 16", lambda c: c.run(count=15)),
    "another height": (IMAGE, "(16, 32, 28, 1)", lambda c: c.run(height=32)),
    "a negative width": (IMAGE, "(16, 28, -28, 1)", lambda c: c.run(width=-28)),
    "a dtype of 0": (IMAGE, "dtype 0", lambda c: c.run(dtype=0)),
    "data that is not aligned": (ARGUMENT, "not aligned", lambda c: c.run(data=c.pixels.ctypes.data + 1)),
    "pixels that were not scaled": (IMAGE, "float images go from 0 to 255", lambda c: c.run_value(255)),
    "a value just beyond -2": (IMAGE, "go from -2 to 0", lambda c: c.run_value(np.nextafter(-2, -3, dtype="f"))),
    "an infinite value": (IMAGE, "float images go from 0 to inf", lambda c: c.run_value(math.inf)),
    "checked pixels that were not scaled": (
        IMAGE, "pass pixels 0..255 as uint8", lambda c: c.run_value(255, "vmoe_engine_check_images"),
    ),
    "check without an engine": (ARGUMENT, "engine is", lambda c: call("vmoe_engine_check_images", None, None)),
    "check no images": (
        IMAGE, "there are no images", lambda c: call("vmoe_engine_check_images", c.engine, byref(c.images(count=0))),
    ),
    "a ratio of 0": (ROUTING, "not 0.0", lambda c: c.set(set=RATIO)),
    "a bpr of 2": (ROUTING, "bpr must be 0 or 1, not 2", lambda c: c.set(set=BPR, bpr=2)),
    "a pool of 2": (ROUTING, "pool must be 0 or 1, not 2", lambda c: c.set(set=POOL, pool=2)),
    "an unknown field": (ARGUMENT, "'set' is 64", lambda c: c.set(set=64)),
    "a profile with a line break": (ROUTING, "there is no profile 'c0.3-k1 '", lambda c: c.set(profile=b"c0.3-k1\n")),
    "a profile of 100,000 digits": (ROUTING, "there is no profile 'c", lambda c: c.set(profile=b"c" + b"1" * 100_000)),
    "cancellable without an engine": (
        ARGUMENT, "engine is", lambda c: call("vmoe_engine_run_cancellable", None, byref(c.images()), None, None, None, 0),
    ),
    "no place for a cancellation": (ARGUMENT, "cancellation is", lambda c: call("vmoe_cancellation_create", None)),
    "warm up without an engine": (ARGUMENT, "engine is", lambda c: call("vmoe_engine_warm_up", None, 16, None)),
    "warm up no images": (IMAGE, "there are no images", lambda c: c.warm_up(0)),
    "warm up no multiple of the group": (IMAGE, "multiple of 16", lambda c: c.warm_up(15)),
    "warm up 2^62 images": (MEMORY, "out of memory", lambda c: c.warm_up(2**62)),
    "warm up 2^50 images": (MEMORY, "out of memory", lambda c: c.warm_up(2**50)),
    "warm up an unknown profile": (ROUTING, "there is no profile 'fastest'", lambda c: c.warm_up(16, profile=b"fastest")),
    "log at level 4": (ARGUMENT, "there is no log level 4", lambda c: call("vmoe_set_log", 4, None, None, None)),
    "no place for a routing": (
        ARGUMENT, "routing is", lambda c: call("vmoe_engine_routing", c.engine, byref(c.images()), None, None),
    ),
    "a layer of no routing": (ARGUMENT, "routing is a null pointer", lambda c: call("vmoe_routing_layer", None, 0, None)),
    "info of nothing": (ARGUMENT, "engine is a null pointer", lambda c: call("vmoe_engine_info", None, None)),
    "info of no size": (
        ARGUMENT, "info has struct_size 0", lambda c: call("vmoe_engine_info", c.engine, ctypes.create_string_buffer(999)),
    ),
    "a class name where there is none": (
        ARGUMENT, "no class name 0; there are 0",
        lambda c: call("vmoe_engine_class_name", c.engine, 0, NOWHERE),
    ),
    "MoE layer -1": (ARGUMENT, "no MoE layer -1", lambda c: call("vmoe_engine_moe_layer", c.engine, -1, NOWHERE)),
    "profile 99": (
        ARGUMENT, "no profile 99; there are 12",
        lambda c: call("vmoe_engine_profile", c.engine, 99, c.output.ctypes.data, None, 0),
    ),
    "no place for a profile": (ARGUMENT, "profile is", lambda c: call("vmoe_engine_setting", c.engine, None, None, None, 0)),
    "elastic capacity without options": (
        ARGUMENT, "options is",
        lambda c: call("vmoe_elastic_create", None, None, 1, NOWHERE),
    ),
    "elastic capacity of no size": (ARGUMENT, "options has struct_size 0", lambda c: c.elastic(struct_size=0)),
    "elastic capacity at no time": (ARGUMENT, "time is no finite number", lambda c: c.elastic(time=math.nan)),
    "a decision of nothing": (ARGUMENT, "elastic is", lambda c: call("vmoe_elastic_decide", None, None, None)),
    "a decision on nothing": (
        ARGUMENT, "seen is",
        lambda c: call("vmoe_elastic_decide", c.elastic(), None, c.output.ctypes.data),
    ),
    "a call of a level that is not there": (
        ARGUMENT, "there is no level 2; there are 2", lambda c: call("vmoe_elastic_served", c.elastic(), 2, 16, 0.1),
    ),
    "a call of no images": (ARGUMENT, "1 or more, not 0", lambda c: call("vmoe_elastic_served", c.elastic(), 0, 0, 0.1)),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(mnist_bundle: Path) -> Iterator[Call]:
    if c_engine.sdk() is None:
        pytest.skip("this installation has no C++ SDK")
    yield Call(c_engine.load(bytes(mnist_bundle)), mnist_bundle)


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_gives_a_status_and_leaves_nothing_behind(name: str, good: Call) -> None:
    code, words, bad = CALLS[name]
    with pytest.raises(c_engine.RefusedError) as refused:
        bad(good)
    assert refused.value.code == code
    assert_one_sentence(str(refused.value), words)
    good.run()


@pytest.mark.parametrize("value", [-2, 2, math.nan])
def test_somewhat_larger_values_and_nan_are_taken_as_in_python(value: float, good: Call) -> None:
    good.run_value(value, "vmoe_engine_check_images")
    good.run_value(value)


@pytest.fixture(scope="module")
def programs() -> Path:
    return sdk_build.program(sdk_build.prefixes().standard_ops, "sdk_runner").parent


def status(programs: Path, bundle: Path) -> tuple[int, str]:
    """Load a bundle with the SDK, and return the code and the message of the resulting status."""
    done = sdk_build.run(programs / "sdk_c_only", bundle, sdk_build.onnxruntime_library())
    assert (done.returncode, done.stderr) == (0, "")
    _, code, sentence = done.stdout.removesuffix("\n").split(" ", 2)
    return int(code), sentence


@pytest.mark.parametrize(
    "name",
    ["weights with one bit changed", "a graph behind a link", "a pipe as manifest", "100,000 lists", "a profile of k 9"],
)
def test_a_bundle_is_refused(name: str, programs: Path, tmp_path: Path) -> None:
    # These names refer to cases on which the Python reader and the C++ reader are tested too.
    case = next(case for case in bundle_cases.CASES if case.name == name)
    code, sentence = status(programs, case.build(tmp_path))
    assert code == BUNDLE
    assert_one_sentence(sentence, "x.vmoe", *case.words)


@pytest.mark.parametrize("edit", GRAPH_FAULTS, ids=lambda edit: edit.__name__.replace("_", " "))
def test_a_graph_that_cannot_be_loaded_is_named_and_the_runtime_prints_nothing(
    edit: Edit, programs: Path, mnist_bundle: Path, tmp_path: Path
) -> None:
    data = edited_graph(mnist_bundle, edit)
    code, sentence = status(programs, copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data}))
    assert code == RUNTIME
    assert_one_sentence(sentence, f"x.vmoe/{INLINED}")


def test_weights_that_make_no_finite_answer_are_told(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = with_nan_weights(mnist_bundle, tmp_path / "x.vmoe")
    runner = sdk_build.Runner([programs / "sdk_runner"], bundle, tmp_path)
    images = np.zeros((16, 28, 28, 1), np.float32)
    with pytest.raises(AssertionError, match="logits of finite images are not all finite numbers"):
        runner.logits(images)
    images[0, 3, 3] = np.nan
    assert np.isnan(runner.logits(images)).any()
    runner.close()


def test_a_call_that_fails_writes_nothing(mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = with_nan_weights(mnist_bundle, tmp_path / "x.vmoe")
    call = Call(c_engine.load(bytes(bundle), verify=0), bundle)
    with pytest.raises(c_engine.RefusedError, match="not all finite"):
        call.run()
    assert not call.output.any()


def test_weights_changed_after_a_load_are_found_by_the_next_one(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    assert status(programs, bundle)[0] == 0
    flipped(WEIGHTS)(bundle)
    assert status(programs, bundle)[0] == BUNDLE


def test_no_onnxruntime_at_all_is_one_sentence(programs: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    # The library path lists these invalid libraries before any ONNX Runtime that is installed in the usual place.
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
    assert_one_sentence(
        done.stdout.split("\t", 2)[2].removesuffix("\n"),
        "1.20.2",
        str(library),
        f"too old; {oldest_supported('onnxruntime')}",
    )
