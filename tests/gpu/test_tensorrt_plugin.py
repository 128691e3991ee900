"""The TensorRT plugin without TensorRT: what it makes, refuses, accepts and gives, through TensorRT's own interfaces."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from sdk_build import run
from tensorrt_build import Build, build, headers

from vmoe_export.ops.table import OPS, ElementType

ROUTING = {"VmoeRoute", "VmoeRouteDispatch"}
NAMES = ("VmoeGates", "VmoeRoute", "VmoeDispatch", "VmoeRouteDispatch", "VmoeCombine")
SETTINGS = ("capacity", "k", "bpr")
SANITIZERS = "address,undefined"
DATA_TYPES: dict[ElementType, int] = {"float": 0, "fp16": 1, "i32": 3, "bf16": 7}  # TensorRT's DataType
CASES = 600
GOOD = ("capacity:5:1:3", "k:5:1:2", "bpr:5:1:1")
BAD_FIELDS = {
    "capacity:5:1:0 k:5:1:2 bpr:5:1:1": "capacity must be at least 1, not 0",
    "capacity:5:1:-3 k:5:1:2 bpr:5:1:1": "capacity must be at least 1, not -3",
    "capacity:5:1:-2147483648 k:5:1:2 bpr:5:1:1": "capacity must be at least 1, not -2147483648",
    "capacity:5:1:3 k:5:1:0 bpr:5:1:1": "k must be 1 to 8, not 0",
    "capacity:5:1:3 k:5:1:-1 bpr:5:1:1": "k must be 1 to 8, not -1",
    "capacity:5:1:3 k:5:1:9 bpr:5:1:1": "k must be 1 to 8, not 9",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:2": "bpr must be 0 or 1, not 2",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:-1": "bpr must be 0 or 1, not -1",
    "": "field capacity is missing; it takes capacity, k and bpr, one INT each",
    "k:5:1:2 bpr:5:1:1": "field capacity is missing",
    "capacity:5:1:3 bpr:5:1:1": "field k is missing",
    "capacity:5:1:3 k:5:1:2": "field bpr is missing",
    "capacity:5:1:3": "field k is missing",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:1 capacity:5:1:3": "field capacity is given twice",
    "capacity:5:1:3 k:5:1:2 k:5:1:3 bpr:5:1:1": "field k is given twice",
    "bpr:5:1:1 bpr:5:1:1 bpr:5:1:1": "field bpr is given twice",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:1 seed:5:1:4": "there is no field seed; it takes capacity, k and bpr",
    "Capacity:5:1:3 k:5:1:2 bpr:5:1:1": "there is no field Capacity",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:1 plugin_version:6:1:1": "there is no field plugin_version",
    "capacity:1:1:3 k:5:1:2 bpr:5:1:1": "field capacity must be one INT32 (type 5, length 1), not type 1, length 1",
    "capacity:10:1:3 k:5:1:2 bpr:5:1:1": "field capacity must be one INT32 (type 5, length 1), not type 10, length 1",
    "capacity:5:1:3 k:4:1:2 bpr:5:1:1": "field k must be one INT32 (type 5, length 1), not type 4, length 1",
    "capacity:5:1:3 k:5:1:2 bpr:3:1:1": "field bpr must be one INT32 (type 5, length 1), not type 3, length 1",
    "capacity:8:1:3 k:5:1:2 bpr:5:1:1": "field capacity must be one INT32 (type 5, length 1), not type 8, length 1",
    "capacity:5:2:3 k:5:1:2 bpr:5:1:1": "field capacity must be one INT32 (type 5, length 1), not type 5, length 2",
    "capacity:5:1:3 k:5:0:2 bpr:5:1:1": "field k must be one INT32 (type 5, length 1), not type 5, length 0",
    "capacity:5:1:3 k:5:1:2 bpr:5:-1:1": "field bpr must be one INT32 (type 5, length 1), not type 5, length -1",
    "capacity:5:1:null k:5:1:2 bpr:5:1:1": "field capacity has no data",
    "capacity:5:1:3 k:5:1:2 bpr:5:1:null": "field bpr has no data",
    "null:5:1:3 k:5:1:2 bpr:5:1:1": "field 0 has no name",
    "capacity:5:1:3 k:5:1:2 null:5:1:1": "field 2 has no name",
    "!negative": "the collection of fields is damaged",
    "!null": "the collection of fields is damaged",
}
BAD_FIELDS_OF_OTHERS = {
    "capacity:5:1:3": "there is no field capacity; it takes none",
    "k:5:1:1 bpr:5:1:1": "there is no field k; it takes none",
    "null:5:1:1": "field 0 has no name",
    "!negative": "the collection of fields is damaged",
    "!null": "the collection of fields is damaged",
}


@pytest.fixture(scope="module", params=["first", "last"])
def made(request: pytest.FixtureRequest) -> Build:
    """What the oldest and the newest headers gave, under sanitizers."""
    versions = list(headers())
    if request.param == "last" and len(versions) == 1:
        pytest.skip("there are headers of one version only")
    return build(versions[0 if request.param == "first" else -1], SANITIZERS)


@pytest.fixture(scope="module")
def plugin(made: Build) -> Plugin:
    return Plugin(made)


class Plugin:
    """The plugin, used by a program that does with it what TensorRT does."""

    def __init__(self, made: Build) -> None:
        self._command = (made.program("plugin_check"), made.plugin, made.fake())

    def ask(self, questions: Sequence[str]) -> list[str]:
        """The answer to each question, in the words of tests/cpp/tensorrt_plugin_check.cc."""
        done = run(
            *self._command,
            text="".join(f"{question}\n" for question in questions),
            CUDA_VISIBLE_DEVICES="-1",
            UBSAN_OPTIONS="print_stacktrace=1",
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:6000]
        assert done.stderr == ""
        answers = done.stdout.splitlines()
        assert len(answers) == len(questions)
        return answers

    def ask_one(self, question: str) -> str:
        return self.ask([question])[0]


def settings(name: str, values: Sequence[int] = (3, 2, 1)) -> str:
    return ",".join(map(str, values)) if name in ROUTING else "-"


def inputs(name: str) -> list[str]:
    return [value.name for value in OPS[name].inputs if value.type != "i64"]


def input_shapes(name: str, sizes: dict[str, int]) -> list[tuple[int, ...]]:
    return [tuple(sizes[dim] for dim in value.dims) for value in OPS[name].inputs if value.type != "i64"]


def words(shapes: Sequence[Sequence[int]]) -> str:
    return " ".join(",".join(map(str, shape)) for shape in shapes)


def test_there_is_a_creator_for_each_op(plugin: Plugin) -> None:
    creators = [text.split(",") for text in plugin.ask_one("creators").split(" | ")]
    assert [creator[0] for creator in creators] == list(NAMES)
    for name, version, namespace, kind, fields in creators:
        assert (version, namespace, kind) == ("1", "vmoe", "PLUGIN CREATOR_V3ONE")
        assert fields == ("capacity:5:1 k:5:1 bpr:5:1" if name in ROUTING else "")


def test_good_fields_make_a_plugin_that_serialises_them(plugin: Plugin) -> None:
    cases = [(c, k, bpr) for c in (1, 3, 2147483647) for k in range(1, 9) for bpr in (0, 1)]
    questions, expected = [], []
    for name in ROUTING:
        for values in cases:
            fields = [f"{field}:5:1:{value}" for field, value in zip(SETTINGS, values, strict=True)]
            for order in (fields, fields[::-1]):
                questions.append(f"create {name} {' '.join(order)}")
                expected.append(f"made {' '.join(fields)}")
    for name in set(NAMES) - ROUTING:
        questions.append(f"create {name}")
        expected.append("made ")
    assert plugin.ask(questions) == expected


def test_bad_fields_are_refused_in_a_sentence(plugin: Plugin) -> None:
    cases = [(name, fields, why) for name in sorted(ROUTING) for fields, why in BAD_FIELDS.items()]
    cases += [(name, *case) for name in sorted(set(NAMES) - ROUTING) for case in BAD_FIELDS_OF_OTHERS.items()]
    assert len(BAD_FIELDS) >= 25
    answers = plugin.ask([f"create {name} {fields}".rstrip() for name, fields, _ in cases])
    for (name, fields, why), answer in zip(cases, answers, strict=True):
        assert answer.startswith(f'refused error: vmoe: {name} "node": {why}'), (name, fields, answer)


@pytest.mark.parametrize("name", NAMES)
def test_output_shapes_are_the_tables(plugin: Plugin, name: str) -> None:
    rng = np.random.default_rng(NAMES.index(name))
    questions, expected = [], []
    for _ in range(CASES):
        experts, capacity = int(rng.integers(1, 257)), int(rng.integers(1, 200))
        k, bpr = int(rng.integers(1, min(8, experts) + 1)), int(rng.integers(2))
        shapes, outputs = [], []
        for _ in range(2):  # the second with the expressions of the first
            sizes = {dim: int(rng.integers(1, 600)) for dim in "GSD"} | {"E": experts, "K": k}
            sizes["M"] = sizes["G"] * capacity
            shapes.append(input_shapes(name, sizes))
            made = [value for value in OPS[name].outputs if not value.optional]
            outputs.append(words([tuple(sizes[dim] for dim in value.dims) for value in made]))
        questions.append(f"shapes {name} {settings(name, (capacity, k, bpr))} {words(shapes[0])} / {words(shapes[1])}")
        expected.append(" / ".join(outputs))
    answers = plugin.ask(questions)
    if name in ROUTING:  # K, and nothing else, is known when the network is built
        for answer in answers:
            assert re.fullmatch(r"(\d+,\d+,#\d+ ){2}[\d, ]+ / (\d+,\d+,#\d+ ){2}[\d, ]+", answer)
    assert [answer.replace("#", "") for answer in answers] == expected


@pytest.mark.parametrize("name", NAMES)
def test_types_are_the_tables_and_the_format_is_linear(plugin: Plugin, name: str) -> None:
    op = OPS[name]
    values = [value for value in (*op.inputs, *op.outputs) if value.type != "i64" and not value.optional]
    expected = set()
    for choice in op.type_choices:
        types: list[ElementType] = [choice[value.type] for value in values]
        expected.add(",".join(str(DATA_TYPES[type_]) for type_ in types))
    accepted = plugin.ask_one(f"types {name} {settings(name)}").split()
    assert set(accepted) == expected
    assert len(accepted) == len(expected) == {"VmoeGates": 1, "VmoeRouteDispatch": 9, "VmoeCombine": 5}.get(name, 3)


def test_limits_are_kept_when_building_and_running(plugin: Plugin) -> None:
    good = {
        "VmoeGates - 4,197,768 768,256": 0,
        "VmoeRoute 1,1,0 1,1,1": 0,
        "VmoeRoute 3,8,1 2,65536,256": None,
        "VmoeRoute 3,2,1 0,197,8": 0,
        "VmoeRouteDispatch 60,2,1 64,197,8 64,197,768": 0,
        "VmoeRouteDispatch 5000,2,1 1,36928,64 1,36928,768": None,
        "VmoeDispatch - 4,197,768 8,12": 0,
        "VmoeCombine - 8,12,768 4,197,8 4,197,8": 0,
    }
    answers = plugin.ask([f"limits {question}" for question in good])
    for (question, size), answer in zip(good.items(), answers, strict=True):
        workspace = int(answer.removeprefix("workspace "))
        assert workspace == size if size is not None else workspace > 0 and workspace % 256 == 0, question

    experts, choices = "there must be 1 to 256 experts", "k must be between 1 and the number of experts"
    many = "are numbered in 32 bits, and"
    bad = {
        "VmoeGates - 4,197,768 768,257": f"{experts}, not 257",
        "VmoeGates - 4,197,768 768,0": f"{experts}, not 0",
        "VmoeGates - 4,197,768 767,8": "router has shape [767, 8], but D is 768 in x",
        "VmoeRoute 3,2,1 4,197,257": f"{experts}; here gates is [4, 197, 257], k 2 and capacity 3",
        "VmoeRoute 3,2,1 4,197,0": "there are no experts",
        "VmoeRoute 3,2,1 4,197,1": f"{choices}, 1, not 2",
        "VmoeRouteDispatch 3,8,1 4,197,7 4,197,64": f"{choices}, 7, not 8",
        "VmoeRoute 3,2,1 1,65537,8": "a group must have at most 65536 tokens",
        "VmoeRoute 2147483647,1,1 1,197,2": f"{many} E * G * capacity = 2 * 1 * 2147483647 is too many",
        "VmoeRoute 100000,1,1 1000,1,32": f"{many} E * G * capacity = 32 * 1000 * 100000 is too many",
        "VmoeRoute 1,8,1 65536,65536,8": f"choices of tokens {many} G * S * k = 65536 * 65536 * 8 is too many",
        "VmoeRoute 3,2,1 4,197": "gates has shape [4, 197], not the 3 dimensions GSE",
        "VmoeRoute 3,2,1 4,197,8,1": "gates has shape [4, 197, 8, 1], not the 3 dimensions GSE",
        "VmoeRoute 3,2,1 -1,197,8": "gates has shape [-1, 197, 8], but sizes must be known and fit 32 bits",
        "VmoeRoute 3,2,1 2147483648,1,8": "gates has shape [2147483648, 1, 8], but sizes must be known",
        "VmoeRouteDispatch 3,2,1 4,197,8 4,196,64": "x has shape [4, 196, 64], but S is 197 in gates",
        "VmoeRouteDispatch 3,2,1 4,197,8 5,197,64": "x has shape [5, 197, 64], but G is 4 in gates",
        "VmoeDispatch - 4,197,768 65536,65536": f"{many} E * M = 65536 * 65536 is too many",
        "VmoeDispatch - 4,197 8,12": "x has shape [4, 197], not the 3 dimensions GSD",
        "VmoeCombine - 8,12,768 4,197,9 4,197,9": "a token has 1 to 8 choices, not 9",
        "VmoeCombine - 8,12,768 4,197,0 4,197,0": "a token has 1 to 8 choices, not 0",
        "VmoeCombine - 8,12,768 4,197,2 4,197,3": "weight has shape [4, 197, 3], but K is 2 in slot",
        "VmoeCombine - 65536,32768,1 4,197,2 4,197,2": f"{many}",
    }
    answers = plugin.ask([f"limits {question}" for question in bad])
    for (question, why), answer in zip(bad.items(), answers, strict=True):
        assert answer.startswith(f"refused error: vmoe: {question.split()[0]}: ") and why in answer, answer


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_inputs_is_refused(plugin: Plugin, name: str) -> None:
    answer = plugin.ask_one(f"counts {name} {settings(name)}")
    expected = f"error: vmoe: {name}: it has {len(inputs(name))} inputs ({', '.join(inputs(name))}) and"
    assert answer.startswith(expected)
    assert answer.endswith("; capacity, k and bpr are attributes here") == (name in ROUTING)


@pytest.mark.parametrize("name", NAMES)
def test_copies_outlive_what_they_were_made_from(plugin: Plugin, name: str) -> None:
    expected = "-capacity3-k2-bpr1" if name in ROUTING else ""
    assert plugin.ask_one(f"lifecycle {name} {settings(name)}") == f"vmoe-{name}-1{expected}"


def test_what_a_timing_depends_on_is_in_its_id(plugin: Plugin) -> None:
    cases = [(name, values) for name in sorted(ROUTING) for values in ((3, 2, 1), (4, 2, 1), (3, 1, 1), (3, 2, 0))]
    identities = plugin.ask([f"lifecycle {name} {settings(name, values)}" for name, values in cases])
    assert len(set(identities)) == len(cases)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_device_a_run_gives_an_error(plugin: Plugin, name: str) -> None:
    shapes = input_shapes(name, {"G": 4, "S": 197, "E": 8, "D": 64, "K": 2, "M": 12})
    answer = plugin.ask_one(f"enqueue {name} {settings(name)} {words(shapes)}")
    failed = re.fullmatch(r"failed error: vmoe: (.+) \| 7 (.+)", answer)  # 7: kFAILED_EXECUTION
    assert failed, answer
    assert failed[1] == failed[2]
    assert failed[1].startswith(f"{name}: its work could not be put on the stream: ")
    assert "cudaError" in failed[1]


def test_without_a_logger_messages_go_to_stderr(made: Build) -> None:
    done = run(made.program("plugin_check"), made.plugin, text="create VmoeRoute\n")
    assert (done.returncode, done.stdout) == (0, "refused (on stderr)\n")
    assert done.stderr.splitlines()[0].startswith('vmoe: VmoeRoute "node": field capacity is missing')


def test_another_major_version_of_tensorrt_is_refused(made: Build) -> None:
    done = run(made.program("plugin_check"), made.plugin, made.fake("fake_unknown"), text="create VmoeGates\n")
    assert (done.returncode, done.stdout) == (0, "refused \n")
    says = f"the plugin was built for TensorRT {made.major}, and TensorRT 9 has loaded it; build it again with the headers"
    assert done.stderr.startswith(f'vmoe: VmoeGates "node": {says}')


@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("ldd") is None, reason="there is no nm or ldd")
def test_libraries_export_what_tensorrt_calls_and_need_no_nvidia_library() -> None:
    made = build(next(iter(headers())))
    for library, exported in ((made.plugin, {"getCreators", "setLoggerFinder"}), (made.register, set())):
        assert set(run("nm", "-D", "--defined-only", library).stdout.split()[2::3]) == exported
        needed = run("ldd", library).stdout
        assert "libc.so" in needed
        assert not re.search(r"nvinfer|cuda|nvidia|not found", needed), needed
        undefined = run("nm", "-D", "--undefined-only", library).stdout
        assert not re.search(r"nvinfer|cuda|getPluginRegistry|getLogger", undefined), undefined
