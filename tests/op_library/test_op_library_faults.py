"""Check that each bad call to the op library gives an error that contains the op's name and the fault.

No call may end the process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cpu_paths import need_op_library, refusal, run_calls, supported_paths
from op_models import NUMPY_TYPES, node_call

from vmoe_export.ops.table import ELEMENT_TYPES, OPS, Op
from vmoe_runtime.op_library import library_path

need_op_library()

SIZES = {
    "G": 2,
    "S": 5,
    "D": 6,
    "E": 3,
    "F": 4,
    "K": 2,
    "M": 4,
    "N": 2,
    "T": 5,
    "Q": 3,
    "P": 2,
    "O": 7,
    "1": 1,
    "C": 2,
    "A": 3,
}
SETTINGS = {"capacity": 2, "k": 2, "bpr": 1, "pool": 1, "max_experts": 2, "merge": 2}
WEIGHTS = ("router", "w1", "w2", "w", "wq", "wk", "wv", "wo")
"""Inputs that are packed at load if they are constant."""
LARGEST = 2**31 - 1

Inputs = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Fault:
    """A valid call with one change that makes it invalid. The error message must contain `says` and the op's name."""

    op: str
    what: str
    says: tuple[str, ...]
    inputs: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    constants: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}: {self.what}"


def good_inputs(op: Op) -> Inputs:
    rng = np.random.default_rng(0)
    return {
        value.name: None if value.scale_of else good_input(rng, value.name, ELEMENT_TYPES[value.type][0], value.dims)
        for value in op.inputs
    }


def good_input(rng: np.random.Generator, name: str, element: str, dims: tuple[str, ...]) -> np.ndarray:
    shape = [SIZES[dim] for dim in dims]
    if element == "i64":
        return np.array([SETTINGS[name]], np.int64)
    if name == "token":
        return rng.integers(-1, SIZES["T"], shape, dtype=np.int32)
    if element == "i32":
        return rng.integers(-1, 10, shape, dtype=np.int32)
    return rng.standard_normal(shape).astype(NUMPY_TYPES[element])


def shape_faults(op: Op) -> Iterator[Fault]:
    """Yield calls with one bad input.

    The input is omitted, or it has a wrong rank or type, or a size that contradicts another input.
    """
    good = good_inputs(op)
    optional = ("capacity", "k", "bpr") if "capacity" in good else ()
    shared = [dim for value in op.inputs if not value.scale_of for dim in value.dims]
    for value in op.inputs:
        name, array = value.name, good[value.name]
        if array is None:
            continue
        settings_error = "neither an input nor an attribute" if name in optional else ""
        if not value.optional:
            yield Fault(op.name, f"{name} left out", (settings_error or "input",), {name: None})
        yield Fault(op.name, f"{name} with a dimension more", (name, "shape"), {name: array[None]})
        if array.ndim > 0:
            yield Fault(op.name, f"{name} without its last dimension", (name, "shape"), {name: array[..., 0]})
        other = ("tensor(double)", "tensor(int32)") if value.type != "W" else ("float64", "int32")
        yield Fault(op.name, f"{name} of float64", (name, other[0]), {name: array.astype(np.float64)})
        if array.dtype != np.int32:
            yield Fault(op.name, f"{name} of int32", (name, other[1]), {name: array.astype(np.int32)})
        if value.type == "float":
            wide = array.astype(ml_dtypes.bfloat16)
            yield Fault(op.name, f"{name} of bfloat16", (name, "tensor(bfloat16)"), {name: wide})
        for axis, dim in enumerate(value.dims):
            longer = np.concatenate([array, array.take([0], axis)], axis)
            shorter = array.take(range(array.shape[axis] - 1), axis)
            if dim == "1" or shared.count(dim) > 1:
                for size, changed in (("longer", longer), ("shorter", shorter)):
                    both = plain_and_constant(op, f"{name} {size} in {dim}", (name, "shape"), {name: changed})
                    yield from both if name in WEIGHTS else (next(both),)


def plain_and_constant(op: Op, what: str, says: tuple[str, ...], inputs: Inputs) -> Iterator[Fault]:
    """Yield the fault `what` twice: with weights as inputs, and with weights as constants."""
    yield Fault(op.name, what, says, inputs)
    yield Fault(op.name, f"constant {what}", says, inputs, {}, tuple(inputs))


def scale_faults(op: Op) -> Iterator[Fault]:
    """Yield calls in which scales and weights don't match.

    Either float32 weights have scales, or int8 weights have none.
    """
    given = int8_inputs(op)
    integers = {value.name: given[value.name] for value in op.inputs if value.type == "W"}
    for value in op.inputs:
        if value.scale_of:
            says = (value.scale_of, "float32", value.name, "left out")
            yield from plain_and_constant(op, f"{value.name} of float32 weights", says, {value.name: given[value.name]})
    if integers:
        first = next(iter(integers))
        yield from plain_and_constant(op, "int8 weights without scales", (first, "int8"), integers)
        if len(integers) > 1:
            yield Fault(op.name, f"{first} alone of int8", (first, "int8"), {first: integers[first]})


def int4_faults(op: Op) -> Iterator[Fault]:
    """Yield a call whose int4 weights have more groups of scales than their depth allows."""
    if not any(value.grouped_dims for value in op.inputs):
        return
    sizes = {**SIZES, "H": 2, "J": 1}
    good: Inputs = {}
    for value in op.inputs:
        if value.scale_of:
            good[value.name] = np.ones([sizes[dim] for dim in value.grouped_dims], np.float16)
        elif value.type == "W":
            good[value.name] = np.ones([sizes[dim] for dim in value.dims], ml_dtypes.int4)
    says = (f"weights of D = {SIZES['D']}", "1 groups", "not 2")
    yield Fault(op.name, "int4 weights with too many scales", says, good, {}, tuple(good))


def int8_inputs(op: Op) -> Inputs:
    """Return valid int8 weights and their scales."""
    names = {value.name: value for value in op.inputs if value.type == "W" or value.scale_of}
    return {
        name: np.ones([SIZES[dim] for dim in value.dims], np.float32 if value.scale_of else np.int8)
        for name, value in names.items()
    }


def int8_faults(op: Op) -> Iterator[Fault]:
    """Yield calls with missing scales, scales of a wrong size, and chunks that don't divide the hidden features."""
    good = int8_inputs(op)
    for value in op.inputs:
        if not value.scale_of:
            continue
        scale = good[value.name]
        assert scale is not None
        for constants in ((), (value.scale_of,), tuple(good)):
            missing = tuple(name for name in constants if name != value.name)
            says: tuple[str, ...] = (value.scale_of, "int8", value.name, "given")
            yield Fault(op.name, f"no {value.name}, constant {missing}", says, good | {value.name: None}, {}, missing)
            longer = good | {value.name: np.concatenate([scale, scale[..., :1]], -1)}
            yield Fault(op.name, f"{value.name} longer, constant {constants}", (value.name, "shape"), longer, {}, constants)
    if "hidden_chunk" in op.attributes:
        for constants in ((), tuple(good)):
            says = ("hidden_chunk", "64", "divide F")
            yield Fault(op.name, f"hidden_chunk 64, constant {constants}", says, good, {"hidden_chunk": 64}, constants)


def optional_setting_faults(op: Op) -> Iterator[Fault]:
    """Yield calls that set an attribute for a setting that must be an input."""
    for name in (value.name for value in op.inputs if value.type == "i64" and value.optional):
        yield Fault(op.name, f"attribute {name}", (name, "must be an input"), {name: None}, {name: 1})


def setting_faults() -> Iterator[Fault]:
    most = LARGEST // (SIZES["G"] * SIZES["E"])
    settings = {
        "capacity": dict.fromkeys((0, -1, -(2**62)), "at least 1") | {most + 1: "32 bits", 2**62: "32 bits"},
        "k": dict.fromkeys((0, -1, SIZES["E"] + 1, 2**40), "must be"),
        "bpr": dict.fromkeys((2, -1, 2**32), "0 or 1"),
    }
    for op in ("VmoeRoute", "VmoeRouteDispatch", "VmoeRouterBlock", "VmoeChooseTokens"):
        for name, values in settings.items():
            if name not in (value.name for value in OPS[op].inputs):
                continue
            for number, says in values.items():
                what = f"{name} {number}"
                yield Fault(op, f"input {what}", (name, says, str(number)), {name: np.array([number])})
                yield Fault(op, f"attribute {what}", (name, says, str(number)), {name: None}, {name: number})
            for value in (2.0, "2", [2], [2.0], ["2"]):
                yield Fault(op, f"attribute {name} {value!r}", (name, "INT"), {name: None}, {name: value})
            yield Fault(op, f"attribute {name} of float beside the input", (name, "INT"), {}, {name: 2.0})
    for op in ("VmoeExpertMlp", "VmoeExpertBlock", "VmoeSoftDispatch", "VmoeSoftCombine"):
        for value in (1.0, "1", [1]):
            yield Fault(op, f"dispatch_bf16 {value!r}", ("dispatch_bf16", "INT"), {}, {"dispatch_bf16": value})
        yield Fault(op, "dispatch_bf16 2", ("dispatch_bf16", "0 or 1"), {}, {"dispatch_bf16": 2})
    no_tokens = np.zeros((2, 0, 6), np.float32)
    of_none = {"x": no_tokens, "sizes": no_tokens[..., 0], "coordinates": None, "frequencies": None}
    yield Fault("VmoeClassAttentionBlock", "no tokens", ("there are no tokens",), of_none)
    for op in ("VmoeAttention", "VmoeAttentionBlock", "VmoeClassAttentionBlock"):
        for value in (0, -1, 2**40, 4):
            yield Fault(op, f"num_heads {value}", ("num_heads", str(value)), {}, {"num_heads": value})
    for op in ("VmoeExpertMlp", "VmoeDenseMlp", "VmoeMlpBlock", "VmoeExpertBlock"):
        yield Fault(op, "activation 4", ("activation", "0 to 3", "4"), {}, {"activation": 4})
        yield Fault(op, "hidden_chunk -1", ("hidden_chunk", "at least 0", "-1"), {}, {"hidden_chunk": -1})
        yield Fault(op, "hidden_chunk 2 of float32", ("hidden_chunk", "must be 0", "float32"), {}, {"hidden_chunk": 2})
    yield Fault("VmoeAttention", "bf16 2", ("bf16", "0 or 1"), {}, {"bf16": 2})
    for value in (2.0, "2", [2]):
        yield Fault("VmoeAttention", f"num_heads {value!r}", ("num_heads", "INT"), {}, {"num_heads": value})


def policy_faults() -> Iterator[Fault]:
    for op in ("VmoeRoute", "VmoeRouterBlock"):
        for name, numbers, says in (("pool", (2, -1, 2**32), "0 or 1"), ("max_experts", (0, -1, -(2**62)), "at least 1")):
            for number in numbers:
                said, given = (name, says, str(number)), {name: np.array([number])}
                yield from plain_and_constant(OPS[op], f"{name} {number}", said, given)


def value_faults() -> Iterator[Fault]:
    for bad in (-2, 10, LARGEST, -LARGEST):
        src = np.zeros((3, 4), np.int32)
        src[2, 3] = bad
        for op in ("VmoeDispatch", "VmoeExpertBlock"):
            yield Fault(op, f"src {bad}", ("src", str(bad), "10 tokens"), {"src": src})
    for bad in (-2, 12, LARGEST, -LARGEST):
        slot = np.zeros((2, 5, 2), np.int32)
        slot[1, 4, 1] = bad
        for op in ("VmoeCombine", "VmoeExpertBlock"):
            yield Fault(op, f"slot {bad}", ("slot", str(bad), "12 slots"), {"slot": slot})
    wide, narrow = np.zeros((3, 6, 4), np.float32), np.zeros((3, 4, 6), ml_dtypes.bfloat16)
    for op in ("VmoeExpertMlp", "VmoeExpertBlock"):
        for constants in ((), ("w1", "w2"), ("w1",), ("w2",)):
            weights: Inputs = {"w1": wide, "w2": narrow}
            yield Fault(op, f"w1 float32 and w2 bfloat16, constant {constants}", ("w1", "w2"), weights, {}, constants)
    yield Fault("VmoeRouterBlock", "no experts", ("no experts",), {"router": np.zeros((6, 0), np.float32)})
    yield Fault("VmoeSoftCombine", "a slot too many", ("M is 5", "G * P is 4"), {"out": np.zeros((3, 5, 6), np.float32)})
    for op in ("VmoeRoute", "VmoeRouteDispatch"):
        yield Fault(op, "no experts", ("no experts",), {"gates": np.zeros((2, 5, 0), np.float32)})
    yield Fault(
        "VmoeLinear", "x of nine dimensions", ("shape [1, 1, 1, 1, 1, 1, 1, 1, ...]",), {"x": np.ones((1,) * 9, np.float32)}
    )
    no_keys = np.zeros((2, 0, 6), np.float32)
    yield Fault("VmoeAttention", "no keys", ("no keys",), {"k": no_keys, "v": no_keys, "sizes": no_keys[..., 0]})
    for op in ("VmoeMerge", "VmoeAttentionBlock"):
        yield Fault(op, "merge below 0", ("merge", "at least 0", "-1"), {"merge": np.array([-1])})
        far = np.full((2, 7), SIZES["T"], np.int32)
        yield Fault(op, "a token that there is not", ("token has the number 5", "5 tokens"), {"token": far})
    yield Fault("VmoeAttentionBlock", "merge without sizes", ("merge is given",), {"sizes": None})


FAULTS = {
    str(fault): fault
    for op in OPS.values()
    for fault in (*shape_faults(op), *scale_faults(op), *int8_faults(op), *int4_faults(op), *optional_setting_faults(op))
}
FAULTS |= {str(fault): fault for fault in (*setting_faults(), *policy_faults(), *value_faults())}


def test_the_good_calls_are_good() -> None:
    results = run_calls([node_call(op.name, good_inputs(op)) for op in OPS.values()])
    assert [result for result in results if isinstance(result, str)] == []


@pytest.mark.sample(300)
@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_call_is_an_error_that_says_what_is_wrong(name: str) -> None:
    fault, message = FAULTS[name], messages()[name]
    assert message, "it gave an answer"
    assert "\n" not in message.strip()
    for said in (fault.op, *fault.says):
        assert said in message


@functools.cache
def messages() -> dict[str, str]:
    """Run all bad calls in one process. Return the error message of each, or "" if it gave a result.

    A good call follows each bad call, to show that the process still works.
    """
    calls = []
    for fault in FAULTS.values():
        op = OPS[fault.op]
        calls.append(node_call(op.name, good_inputs(op) | dict(fault.inputs), fault.attributes, constants=fault.constants))
        calls.append(node_call(op.name, good_inputs(op)))
    results = run_calls(calls)
    assert not any(isinstance(good, str) for good in results[1::2])
    return {name: bad if isinstance(bad, str) else "" for name, bad in zip(FAULTS, results[::2], strict=True)}


@pytest.mark.parametrize("path", ["fast", "AVX2", "avx2 ", " ", "scalar,avx2", "neon64", "0", "x" * 10_000])
def test_a_cpu_path_that_is_not_there_is_refused_with_those_that_are(path: str) -> None:
    message = refusal(Path(library_path()), path)
    for said in ("vmoe op library", "VMOE_CPU_PATH", path[:40], ", ".join(supported_paths())):
        assert said in message
    assert len(message) < 300 and "pip install" not in message


def test_an_empty_cpu_path_is_none() -> None:
    assert refusal(Path(library_path()), "") == ""


@pytest.mark.parametrize("contents", [b"", b"not a library", b"\x7fELF", b"\x7fELF" + bytes(1000)])
def test_a_damaged_library_is_an_error(contents: bytes, tmp_path: Path) -> None:
    library = tmp_path / "libvmoe_onnxruntime.so"
    library.write_bytes(contents)
    assert str(library) in refusal(library)
