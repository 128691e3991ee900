"""Check the TensorRT plugin without TensorRT.

The tests check what it creates, refuses, accepts and returns through TensorRT's interfaces.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from sdk_build import run
from tensorrt_build import Build, build

from vmoe_export.ops.table import OPS, ElementType

ROUTING = {"VmoeRoute", "VmoeRouteDispatch"}
NAMES = ("VmoeGates", "VmoeRoute", "VmoeDispatch", "VmoeRouteDispatch", "VmoeCombine")
DATA_TYPES: dict[ElementType, int] = {"float": 0, "fp16": 1, "i32": 3, "bf16": 7}  # TensorRT's DataType
OTHER_TYPES = (2, 8)  # INT8 and INT64, which no op accepts
CASES = 100
BAD_FIELDS = {
    "capacity:5:1:0 k:5:1:2 bpr:5:1:1": "capacity must be at least 1, not 0",
    "capacity:5:1:3 k:5:1:9 bpr:5:1:1": "k must be 1 to 8, not 9",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:-1": "bpr must be 0 or 1, not -1",
    "": "field capacity is missing; it takes capacity, k and bpr, one INT each",
    "capacity:5:1:3 bpr:5:1:1": "field k is missing",
    "capacity:5:1:3 k:5:1:2 k:5:1:3 bpr:5:1:1": "field k is given twice",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:1 seed:5:1:4": "there is no field seed; it takes capacity, k and bpr",
    "capacity:1:1:3 k:5:1:2 bpr:5:1:1": "field capacity must be one INT32 (type 5, length 1), not type 1, length 1",
    "capacity:5:1:3 k:5:0:2 bpr:5:1:1": "field k must be one INT32 (type 5, length 1), not type 5, length 0",
}
EXPERTS, CHOICES = "there must be 1 to 256 experts", "k must be between 1 and the number of experts"
BAD_SHAPES = {
    "VmoeGates - 4,197,768 768,257": f"{EXPERTS}, not 257",
    "VmoeGates - 4,197,768 767,8": "router has shape [767, 8], but D is 768 in x",
    "VmoeRoute 3,2,1 4,197,257": f"{EXPERTS}; here gates is [4, 197, 257], k 2 and capacity 3",
    "VmoeRouteDispatch 3,8,1 4,197,7 4,197,64": f"{CHOICES}, 7, not 8",
    "VmoeRoute 3,2,1 1,65537,8": "a group must have at most 65536 tokens",
    "VmoeRoute 2147483647,1,1 1,197,2": "E * G * capacity = 2 * 1 * 2147483647 is too many",
    "VmoeRoute 3,2,1 4,197": "gates has shape [4, 197], not the 3 dimensions GSE",
    "VmoeRoute 3,2,1 -1,197,8": "gates has shape [-1, 197, 8], but sizes must be known and fit 32 bits",
    "VmoeRouteDispatch 3,2,1 4,197,8 4,196,64": "x has shape [4, 196, 64], but S is 197 in gates",
    "VmoeDispatch - 4,197,768 65536,65536": "E * M = 65536 * 65536 is too many",
    "VmoeCombine - 8,12,768 4,197,9 4,197,9": "a token has 1 to 8 choices, not 9",
    "VmoeCombine - 8,12,768": "it has 3 inputs (out, slot, weight) and",
}


@pytest.fixture(scope="module")
def made() -> Build:
    return build("address,undefined" if os.environ.get("VMOE_TEST_SANITIZED") else "")


def ask(made: Build, questions: Sequence[str]) -> list[str]:
    """Return the program's output for each question.

    tests/cpp/tensorrt_plugin_check.cc describes the formats of questions and outputs.
    """
    command = (made.program("plugin_check"), made.plugin, made.fake())
    text = "".join(f"{question}\n" for question in questions)
    done = run(*command, text=text, CUDA_VISIBLE_DEVICES="-1", UBSAN_OPTIONS="print_stacktrace=1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:] + done.stderr[:6000]
    answers = done.stdout.splitlines()
    assert len(answers) == len(questions)
    return answers


def settings(name: str, values: Sequence[int | str] = (3, 2, 1)) -> str:
    """Return the fields capacity, k and bpr if the op routes. For any other op, return ""."""
    fields = zip(("capacity", "k", "bpr"), values, strict=True)
    return " ".join(f"{field}:5:1:{value}" for field, value in fields) if name in ROUTING else ""


def with_fields(case: str) -> str:
    """Return `case` with its second word replaced by the fields of the op's settings.

    If the op has settings, a case is `OP 3,2,1 SHAPE...`, where the numbers are capacity, k and bpr. Otherwise, it is
    `OP - SHAPE...`.
    """
    name, values, shapes = case.split(" ", 2)
    return f"{name} {settings(name, values.split(',')) if name in ROUTING else ''} {shapes}".replace("  ", " ")


def input_shapes(name: str, sizes: dict[str, int]) -> list[tuple[int, ...]]:
    return [tuple(sizes[dim] for dim in value.dims) for value in OPS[name].inputs if value.type != "i64"]


def words(shapes: Sequence[Sequence[int]]) -> str:
    return " ".join(",".join(map(str, shape)) for shape in shapes)


def question(*parts: str) -> str:
    return " ".join(filter(None, parts))


def test_good_fields_make_a_plugin_that_serialises_them_and_has_a_timing_of_its_own(made: Build) -> None:
    cases = [(c, k, bpr) for c in (1, 2147483647) for k in (1, 8) for bpr in (0, 1)]
    for name in NAMES:
        assert ask(made, [f"fields {name}"]) == ["capacity:5:1 k:5:1 bpr:5:1" if name in ROUTING else ""]
        values = cases if name in ROUTING else [(0, 0, 0)]
        timing = [f"vmoe-{name}-1" + ("-capacity{}-k{}-bpr{}".format(*each) if name in ROUTING else "") for each in values]
        expected = [f"{settings(name, each)} {id_}" for each, id_ in zip(values, timing, strict=True)]
        assert ask(made, [question("create", name, settings(name, each)) for each in values]) == expected


def test_bad_fields_are_refused_in_a_sentence(made: Build) -> None:
    cases = [(name, fields, why) for name in sorted(ROUTING) for fields, why in BAD_FIELDS.items()]
    cases.append(("VmoeGates", "capacity:5:1:3", "there is no field capacity; it takes none"))
    answers = ask(made, [question("create", name, fields) for name, fields, _ in cases])
    for (name, fields, why), answer in zip(cases, answers, strict=True):
        assert answer.startswith(f'refused error: vmoe: {name} "node": {why}'), (name, fields, answer)


@pytest.mark.parametrize("name", NAMES)
def test_output_shapes_are_the_tables(made: Build, name: str) -> None:
    rng = np.random.default_rng(NAMES.index(name))
    questions, expected = [], []
    for _ in range(CASES):
        experts, capacity = int(rng.integers(1, 257)), int(rng.integers(1, 200))
        k, bpr = int(rng.integers(1, min(8, experts) + 1)), int(rng.integers(2))
        sizes = {dim: int(rng.integers(1, 600)) for dim in "GSD"} | {"E": experts, "K": k}
        sizes["M"] = sizes["G"] * capacity
        outputs = [value for value in OPS[name].outputs if not value.optional]
        questions.append(question("shapes", name, settings(name, (capacity, k, bpr)), words(input_shapes(name, sizes))))
        expected.append(words([tuple(sizes[dim] for dim in value.dims) for value in outputs]))
    answers = ask(made, questions)
    if name in ROUTING:  # when the network is built, K is the only known size of slot and weight
        assert all(re.fullmatch(r"(\d+,\d+,#\d+ ){2}[\d, ]+", answer) for answer in answers)
    assert [answer.replace("#", "") for answer in answers] == expected


@pytest.mark.parametrize("name", NAMES)
def test_types_are_the_tables_and_the_format_is_linear(made: Build, name: str) -> None:
    op = OPS[name]
    values = [value for value in (*op.inputs, *op.outputs) if value.type != "i64" and not value.optional]
    accepted = {tuple(DATA_TYPES[choice[value.type]] for value in values) for choice in op.type_choices}
    combinations = list(itertools.product((*DATA_TYPES.values(), *OTHER_TYPES), repeat=len(values)))
    answers = ask(made, [question("types", name, settings(name), words([types])) for types in combinations])
    assert {types for types, answer in zip(combinations, answers, strict=True) if answer == "yes"} == accepted


def test_limits_are_kept_when_building_and_running(made: Build) -> None:
    good = {
        "VmoeGates - 4,197,768 768,256": False,
        "VmoeRoute 3,8,1 2,65536,256": True,
        "VmoeRoute 3,2,1 0,197,8": False,
        "VmoeRouteDispatch 60,2,1 64,197,8 64,197,768": False,
        "VmoeCombine - 8,12,768 4,197,8 4,197,8": False,
    }
    answers = ask(made, [f"limits {with_fields(case)}" for case in good])
    assert [answer.removeprefix("workspace ") != "0" for answer in answers] == list(good.values())
    answers = ask(made, [f"limits {with_fields(case)}" for case in BAD_SHAPES])
    for (case, why), answer in zip(BAD_SHAPES.items(), answers, strict=True):
        assert answer.startswith(f"refused error: vmoe: {case.split()[0]}: ") and why in answer, answer


@pytest.mark.parametrize("name", NAMES)
def test_without_a_device_a_run_gives_an_error(made: Build, name: str) -> None:
    shapes = input_shapes(name, {"G": 4, "S": 197, "E": 8, "D": 64, "K": 2, "M": 12})
    (answer,) = ask(made, [question("enqueue", name, settings(name), words(shapes))])
    assert re.match(rf"failed error: vmoe: {name}: its work could not be put on the stream: .*cudaError", answer), answer


def test_another_major_version_of_tensorrt_is_refused(made: Build) -> None:
    done = run(made.program("plugin_check"), made.plugin, made.fake("fake_unknown"), text="create VmoeGates\n")
    assert (done.returncode, done.stdout) == (0, "refused \n")
    says = f"the plugin was built for TensorRT {made.major}, and TensorRT 9 has loaded it; build it again with the headers"
    assert done.stderr.startswith(f'vmoe: VmoeGates "node": {says}')


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("ldd") is None, reason="there is no nm or ldd")
def test_libraries_export_what_tensorrt_calls_and_need_no_nvidia_library() -> None:
    made = build()
    for library, exported in ((made.plugin, {"getCreators", "setLoggerFinder"}), (made.register, set())):
        assert set(run("nm", "-D", "--defined-only", library).stdout.split()[2::3]) == exported
        needed = run("ldd", library).stdout
        assert "libc.so" in needed
        assert not re.search(r"nvinfer|cuda|nvidia|not found", needed), needed
        undefined = run("nm", "-D", "--undefined-only", library).stdout
        assert not re.search(r"nvinfer|cuda|getPluginRegistry|getLogger", undefined), undefined
