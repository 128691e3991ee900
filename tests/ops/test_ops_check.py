"""What the adapters for ONNX Runtime and TensorRT ask of plugins/ops: whether an op takes a node and a call, and why not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from kept_build import kept
from sdk_build import ROOT

from vmoe_export.ops.table import OPS, ElementType, Op, Types

NAMES: dict[ElementType, str] = {
    "float": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}
SIZES = {"G": 2, "S": 5, "D": 6, "E": 3, "F": 8, "K": 2, "M": 4, "N": 2, "T": 5, "Q": 3, "P": 2, "1": 1}
SETTINGS = {"capacity": 2, "k": 2, "bpr": 1}
CHOICES = [(op, types) for op in OPS.values() for types in op.type_choices]
LARGEST = 2**31 - 1


@pytest.fixture(scope="module")
def program() -> Path:
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    sources = [ROOT / "tests" / "cpp" / "ops_check.cc", *sorted((ROOT / "plugins" / "ops").glob("*.cc"))]
    return kept("ops_check", "c++", *flags, f"-I{ROOT / 'plugins'}", *sources)


def answers(program: Path, lines: Sequence[str]) -> list[str]:
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def call(op: Op, types: Types, changes: str = "") -> str:
    """A good call of the op, in the words of tests/cpp/ops_check.cc, with changes: NAME=... to set, NAME= to leave out."""
    given = {name: str(value) for name, value in (SETTINGS if "capacity" in (v.name for v in op.inputs) else {}).items()}
    for value in op.inputs:
        if value.type != "i64" and (not value.scale_of or types["W"] == "i8"):
            given[value.name] = f"{NAMES[types[value.type]]}:{','.join(str(SIZES[dim]) for dim in value.dims)}"
    given |= dict(word.split("=") for word in changes.split())
    return " ".join([op.name, *(f"{name}={value}" for name, value in given.items() if value)])


def types_of(op: Op, **chosen: ElementType) -> Types:
    return next(types for types in op.type_choices if chosen.items() <= types.items())


def test_every_choice_of_the_table_is_good(program: Path) -> None:
    assert answers(program, [call(op, types) for op, types in CHOICES]) == ["good"] * len(CHOICES)


def test_an_input_of_another_type_is_good_where_the_table_has_that_choice(program: Path) -> None:
    lines, expected = [], []
    for op, types in CHOICES:
        given = [v for v in op.inputs if v.type != "i64" and (not v.scale_of or types["W"] == "i8")]
        for value in given:
            for element, name in (*NAMES.items(), (None, "float64")):
                lines.append(call(op, types).replace(f" {value.name}={NAMES[types[value.type]]}:", f" {value.name}={name}:"))
                elements = {v.name: element if v is value else types[v.type] for v in given}
                has_scales = any(v.scale_of for v in given)
                expected.append(
                    any(
                        all(choice[v.type] == elements[v.name] for v in given)
                        and ("W" not in choice or has_scales == (choice["W"] == "i8"))
                        for choice in op.type_choices
                    )
                )
    found = answers(program, lines)
    assert len(found) > 1000
    for line, answer, is_good in zip(lines, found, expected, strict=True):
        assert (answer == "good") == is_good, (line, answer)


FAULTS = {
    ("VmoeLinear", "i8", "w_scale="): "w is int8, so input w_scale must be given",
    ("VmoeLinear", "bf16", "w_scale=float32:7"): "w is bfloat16, so input w_scale must be left out",
    ("VmoeLinear", "i8", "w_scale=float32:6"): "w_scale has shape [6], but P is 2 in w",
    ("VmoeLinear", "i8", "w_scale=float32:1,7"): "w_scale has shape [1, 7], not the 1 dimensions P",
    ("VmoeLinear", "i8", "b="): "input b is missing",
    ("VmoeLinear", "float", "x=float32:1,1,1,1,1,1,1,1,1"): (
        "x has shape [1, 1, 1, 1, 1, 1, 1, 1, ...], not the 3 dimensions NTD"
    ),
    ("VmoeLinear", "float", f"x=float32:1,{LARGEST + 1},6"): (
        f"x has shape [1, {LARGEST + 1}, 6], but sizes must be known and fit 32 bits"
    ),
    ("VmoeLinear", "float", "x=float32:2,-1,6"): "x has shape [2, -1, 6], but sizes must be known and fit 32 bits",
    ("VmoeDenseMlp", "i8", "hidden_chunk=4"): "good",
    ("VmoeDenseMlp", "i8", "hidden_chunk=3"): "attribute hidden_chunk is 3, which doesn't divide F, 8",
    ("VmoeDenseMlp", "i8", "hidden_chunk=-4"): "attribute hidden_chunk must be at least 0, not -4",
    ("VmoeDenseMlp", "bf16", "hidden_chunk=4"): "attribute hidden_chunk must be 0 where weights are bfloat16, not 4",
    ("VmoeDenseMlp", "i8", "w2=bfloat16:8,6"): "w2 is bfloat16, not int8, the type of w1",
    ("VmoeExpertMlp", "i8", "w1_scale="): "w1 is int8, so input w1_scale must be given",
    ("VmoeExpertMlp", "i8", "w2_scale="): "w2 is int8, so input w2_scale must be given",
    ("VmoeExpertMlp", "float", "dispatch_bf16=2"): "attribute dispatch_bf16 must be 0 or 1, not 2",
    ("VmoeExpertBlock", "float", f"src=int32:3,{LARGEST}"): (
        f"places are numbered in 32 bits, and E * M = 3 * {LARGEST} is too many"
    ),
    ("VmoeAttentionBlock", "i8", "num_heads=3"): "good",
    ("VmoeAttentionBlock", "i8", "num_heads=4"): "attribute num_heads is 4, which doesn't divide D, 6",
    ("VmoeAttentionBlock", "i8", "num_heads=0"): "attribute num_heads must be at least 1, not 0",
    ("VmoeAttention", "float", "bf16=-1"): "attribute bf16 must be 0 or 1, not -1",
    ("VmoeCombine", "float", "weight=bfloat16:2,5,2"): "weight is bfloat16, not float32 beside out in float32",
    ("VmoeCombine", "float", "weight=int64:2,5,2"): "weight is int64, not float32 beside out in float32",
    ("VmoeCombine", "float", "out=uint8:3,4,6"): "out is uint8, not float32, float16 or bfloat16",
    ("VmoeRoute", "float", "capacity="): "capacity is neither an input nor an attribute",
    ("VmoeRoute", "float", "bpr="): "bpr is neither an input nor an attribute",
    ("VmoeRoute", "float", "capacity=0"): "capacity must be at least 1, not 0",
    ("VmoeRoute", "float", "k=0"): "k must be at least 1, not 0",
    ("VmoeRoute", "float", "bpr=2"): "bpr must be 0 or 1, not 2",
    ("VmoeRoute", "float", "pool=1"): "good",
    ("VmoeRoute", "float", "pool=2"): "pool must be 0 or 1, not 2",
    ("VmoeRouterBlock", "float", "pool=-1"): "pool must be 0 or 1, not -1",
    ("VmoeRouterBlock", "float", "max_experts=1"): "good",
    ("VmoeRoute", "float", "max_experts=99 pool=0"): "good",
    ("VmoeRoute", "float", "max_experts=0"): "max_experts must be at least 1, not 0",
    ("VmoeRouterBlock", "float", "max_experts=-5"): "max_experts must be at least 1, not -5",
    ("VmoeRoute", "float", "k=4"): "k must be between 1 and the number of experts, 3, not 4",
    ("VmoeRoute", "float", "gates=float32:2,5,0"): "there are no experts",
    ("VmoeRoute", "float", f"capacity={LARGEST // 6}"): "good",
    ("VmoeRoute", "float", f"capacity={LARGEST // 6 + 1}"): (
        f"places are numbered in 32 bits, and E * G * capacity = 3 * 2 * {LARGEST // 6 + 1} is too many"
    ),
    ("VmoeRouterBlock", "float", f"x=float32:2,{LARGEST},6"): (
        f"choices of tokens are numbered in 32 bits, and G * S * k = 2 * {LARGEST} * 2 is too many"
    ),
    ("VmoeRoute", "float", f"gates=float32:0,5,3 capacity={LARGEST}"): "good",
}


def test_the_sentences(program: Path) -> None:
    lines = []
    for name, element, changes in FAULTS:
        op = OPS[name]
        chosen: dict[str, ElementType] = {"W": element} if any(value.type == "W" for value in op.inputs) else {}  # type: ignore[dict-item]
        lines.append(call(op, types_of(op, **chosen), changes))
    assert dict(zip(FAULTS, answers(program, lines), strict=True)) == FAULTS
