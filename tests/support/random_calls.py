"""Makes random valid and invalid calls of the models from `fuzz_models`, and checks their results.

The program tests/cpp/op_calls.cc, built with a sanitizer, runs the calls. Valid calls must fill their outputs with plausible
values. Invalid calls must be refused with a message that contains the op's name.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from fuzz_models import ONNX_TYPES, Port, Written
from op_models import NUMPY_TYPES

DTYPES = {name: np.dtype(kind) for name, kind in {**NUMPY_TYPES, "scale": np.float32}.items()}
LARGEST, SMALLEST, INT32_MAX = 2**63 - 1, -(2**63), 2**31 - 1
CHOICE = "VmoeChooseTokens"
ROUTERS = ("VmoeRoute", "VmoeRouterBlock", "VmoeRouteDispatch", CHOICE)
SOFT_OPS = ("VmoeSoftRouter", "VmoeSoftDispatch", "VmoeSoftCombine")
MOST = {"G": 3, "N": 3, "E": 7, "K": 4, "M": 12}
EDGES = (15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97)
"""Sizes close to multiples of vectors and tiles."""
LEFT_OUT = {"capacity": 0, "k": 0, "bpr": -1, "pool": 0, "max_experts": LARGEST}
"""Values of settings that are neither inputs nor attributes; without one of the first three, a call is invalid."""
WRONG: Mapping[str, Sequence[int]] = {
    "capacity": (0, -1, SMALLEST),
    "k": (0, -1, LARGEST, SMALLEST, 2**32 | 1),
    "bpr": (2, -1, LARGEST, SMALLEST, 2**32),
    "pool": (2, -1, LARGEST, SMALLEST, 2**32 | 1),
    "max_experts": (0, -1, SMALLEST),
    "merge": (-1, SMALLEST),
}
SPECIAL = np.float32([np.inf, -np.inf, np.nan, 0, -0.0, 1e-42, 3e38, -3e38, 1e-38])
Word = int | str | bytes | Sequence[int]

UNWRITTEN = 0x7FA5
"""16 bits that fill outputs before the call: as a float of any type, a NaN that no op returns; as an index, out of range."""


@dataclass
class Call:
    """A call of a model, with the model's sizes by letter, the settings and the inputs.

    `fault` describes what is invalid about the call. It is empty if the call is valid.
    """

    written: Written
    is_finite: bool
    sizes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fault: str = ""

    @property
    def op(self) -> str:
        return self.written.model.op

    def attribute(self, name: str, otherwise: int = 0) -> int:
        return int(self.written.model.attributes.get(name, otherwise))

    def shape(self, dims: str) -> list[int]:
        return [1 if letter == "1" else self.sizes[letter] for letter in dims]

    def end(self, name: str) -> int:
        """Return the limit for the indices in the input or output `name`. All indices must be below it."""
        ends = {"token": "T", "merged_token": "U", "src": "GS", "expert": "E"}
        return int(np.prod(self.shape(ends.get(name, "EM"))))

    def __str__(self) -> str:
        return f"{self.written.file} {self.op} {self.sizes} {self.settings}"


def make_call(written: Written, chance: Random) -> Call:
    """Make a call that is valid or has one fault."""
    call = Call(written, chance.random() < 0.85)
    _choose_sizes(call, chance)
    shapes = {name: call.shape(port.dims) for name, port in written.inputs.items()}
    wants_fault, name = chance.random() < 0.25, chance.choice(list(shapes))
    if wants_fault and chance.random() < 0.6 and _spoil_shape(call, name, shapes[name], chance):
        call.fault = "shapes"
    rng = np.random.default_rng(chance.getrandbits(64))
    call.arrays = {each: _values(call, each, port, shapes[each], rng) for each, port in written.inputs.items()}
    if call.op == "VmoeExpertBlock" and not call.fault:
        _match_slots(call, chance.random() < 0.05)
    # VmoeClassAttentionBlock doesn't output merged tokens, so it accepts any values of these two inputs.
    if wants_fault and not call.fault and not (call.op == "VmoeClassAttentionBlock" and name in ("merge", "token")):
        _spoil_value(call, name, chance)
    return call


def _choose_sizes(call: Call, chance: Random) -> None:
    written, sizes = call.written, call.sizes
    for letter in "".join(port.dims for port in written.inputs.values()).replace("1", ""):
        if letter not in sizes:
            sizes[letter] = written.fixed.get(letter, _random_size(letter, chance))
    sizes |= written.fixed
    if call.op in ROUTERS:
        _choose_settings(call, chance)
    if "merge" in written.inputs:
        call.settings["merge"] = chance.randint(0, 9)
    if "T" in sizes:
        sizes["U"] = sizes["T"] - _merged(sizes["T"], call.settings.get("merge", 0), call.attribute("prefix"))
    if call.op in SOFT_OPS:
        sizes["M"] = sizes["G"] * sizes["P"]
    _follow_attributes(call, chance)
    if call.op in ("VmoeAttention", "VmoeClassAttentionBlock") and sizes["T"] == 0:
        call.fault = "sizes"
    if written.model.expected == "never-runs":
        call.fault = "the model"


def _follow_attributes(call: Call, chance: Random) -> None:
    """Adapt sizes to the attributes that must divide them.

    In most cases, D becomes a multiple of the number of heads, and F becomes a multiple of the chunk.
    """
    fixed, sizes = call.written.fixed, call.sizes
    for attribute, letter in (("num_heads", "D"), ("hidden_chunk", "F")):
        if divisor := call.attribute(attribute):
            if letter not in fixed and chance.random() < 0.9:
                # A divisor above 128 is too large for the sizes of these tensors. It divides only the size 0.
                sizes[letter] = 0 if divisor > 128 else -(-sizes[letter] // divisor) * divisor
            call.fault = call.fault or ("sizes" if sizes[letter] % divisor else "")
    if "A" in sizes and not call.fault:  # A is the number of column pairs in a head
        columns = 2 * min(call.attribute("num_heads", 1), 1 << 20)
        if columns > 256 or "D" in fixed:
            sizes["A"] = sizes["D"] // columns
        else:
            sizes["D"] = columns * sizes["A"]
        call.fault = "sizes" if sizes["A"] * columns != sizes["D"] else ""


def _random_size(letter: str, chance: Random) -> int:
    if chance.random() < (0.06 if letter == "K" else 0.02):
        return 0
    if letter in MOST:
        return chance.randint(1, MOST[letter])
    return chance.choice(EDGES) if chance.random() < 0.1 else chance.randint(1, 100 if chance.random() < 0.03 else 12)


def _choose_settings(call: Call, chance: Random) -> None:
    """Choose the settings that are inputs, and read the settings that are attributes.

    Then set K and M so that they match the settings.
    """
    sizes, experts = call.sizes, max(call.sizes["E"], 1)
    usual = {
        "capacity": chance.choice((1, 1, 2, 3, 5, max(sizes["S"], 1), sizes["S"] + 1, 500)),
        "k": experts if chance.random() < 0.2 else chance.randint(1, experts),
        "bpr": chance.randint(0, 1),
        "pool": chance.randint(0, 1),
        "max_experts": chance.randint(1, experts + 1) if chance.random() < 0.8 else LARGEST,
    }
    found = {
        name: number if name in call.written.inputs else call.attribute(name, LEFT_OUT[name])
        for name, number in usual.items()
    }
    call.settings = found | ({"k": 1, "bpr": 1} if call.op == CHOICE else {})
    capacity, k, bpr = (call.settings[name] for name in ("capacity", "k", "bpr"))
    is_valid = 1 <= k <= sizes["E"] and bpr in (0, 1) and capacity >= 1
    call.fault = "" if is_valid and capacity * sizes["G"] * sizes["E"] <= INT32_MAX else "settings"
    sizes["K"], sizes["M"] = k, sizes["G"] * capacity


def _merged(tokens: int, merge: int, prefix: int) -> int:
    """Return how many tokens are merged.

    The number is at most `merge`, at most half of all tokens, and at most about half of the tokens after the prefix.
    """
    if tokens <= (1 if prefix == 1 else prefix + 1):
        return 0
    return min(merge, tokens // 2, (tokens - 1) // 2 if prefix == 1 else (tokens - prefix + 1) // 2)


def _spoil_shape(call: Call, name: str, shape: list[int], chance: Random) -> bool:
    """Change an input's shape at random so that it contradicts the other shapes, and return True.

    If the random change would not lead to a contradiction, leave the shape unchanged and return False.
    """
    if chance.random() < 0.3:
        if not shape or chance.random() < 0.5:
            shape.insert(chance.randint(0, len(shape)), 1)
        else:
            shape.pop(chance.randrange(len(shape)))
        return True
    if not shape:
        return False
    dim = chance.randrange(len(shape))
    letter = call.written.inputs[name].dims[dim]
    uses = "".join([*call.written.fixed, *(port.dims for port in call.written.inputs.values())]).count(letter)
    if letter != "1" and uses < 2 and not (letter == "M" and call.op in SOFT_OPS):
        return False
    shape[dim] += -1 if shape[dim] > 0 and chance.random() < 0.5 else chance.randint(1, 3)
    return True


def _values(call: Call, name: str, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    if port.type == "i64":
        return np.full(shape, call.settings[name], np.int64)
    if port.type == "i32":
        return rng.integers(-1, call.end(name), shape, np.int32)
    if port.type == "i8":  # sometimes use only extreme values, which give the largest possible sums
        return (
            rng.choice(np.int8([-128, -127, 127]), shape) if rng.random() < 0.2 else rng.integers(-128, 128, shape, np.int8)
        )
    numbers = 2 * rng.random(shape, np.float32) - 1
    if rng.random() < 0.2:  # ties
        numbers = np.round(numbers * 4) / 4
    if port.type == "scale":
        numbers = numbers / 64
    if not call.is_finite:
        numbers = np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL, shape), numbers)
    with np.errstate(over="ignore", invalid="ignore"):
        if name == "sizes":  # one or more
            numbers = 1 + np.floor(4 * np.abs(numbers))
        return np.asarray(numbers, np.float32).astype(DTYPES[port.type])


def _match_slots(call: Call, is_faulty: bool) -> None:
    """Drop each pair whose slot has no token, because VmoeExpertBlock doesn't accept such a pair.

    If `is_faulty` is true, keep all pairs. If one of them has a slot without a token, mark the call as invalid.
    """
    slot, src = call.arrays["slot"], np.append(call.arrays["src"], -1)
    empty = (slot >= 0) & (src[slot] < 0)
    if is_faulty and empty.any():
        call.fault = "a slot without a token"
    elif not is_faulty:
        slot[empty] = -1


def _spoil_value(call: Call, name: str, chance: Random) -> None:
    """Replace one setting or index in the input `name` with a value that is out of range.

    If the input contains neither settings nor indices, it stays unchanged.
    """
    array, port = call.arrays[name], call.written.inputs[name]
    if port.type == "i64":
        wrong = [*WRONG[name], *([call.sizes["E"] + 1] if name == "k" else [])]
        cells = call.sizes["G"] * call.sizes["E"] if name == "capacity" else 0
        if cells and chance.random() < 0.6:
            wrong = [LARGEST, INT32_MAX // cells + 1, 1 << 33]
    elif port.type == "i32" and array.size:
        end = call.end(name)
        wrong = [end, end + 1, INT32_MAX, -2, -(2**31)]
    else:
        return
    array.flat[chance.randrange(array.size)] = chance.choice(wrong)
    call.fault = name


def check_outputs(call: Call, outputs: Mapping[str, np.ndarray]) -> None:
    """Fail if a valid call's outputs are implausible."""
    for name, array in outputs.items():
        if array.dtype == np.int32:
            assert ((array >= -1) & (array < call.end(name))).all(), f"{call}: {name} has an index out of range"
            continue
        elements = array.reshape(-1).view(np.uint16).reshape(-1, array.itemsize // 2)
        assert not (elements == UNWRITTEN).all(axis=1).any(), f"{call}: some of {name} was not written"
        is_finite = not call.is_finite or np.isfinite(array.astype(np.float32)).all()
        assert is_finite, f"{call}: {name} is not finite, but every input is"
    if "in_place" in outputs:
        assert outputs["in_place"].tobytes() == outputs["y"].tobytes(), f"{call}: other bits in place"
    if call.op in ROUTERS:
        _check_places(call, outputs)


def _check_places(call: Call, outputs: Mapping[str, np.ndarray]) -> None:
    """Check that `slot`, `src`, `buf` and `expert` agree on which token has which slot of which expert."""
    slot, src, buf, expert = (outputs.get(name) for name in ("slot", "src", "buf", "expert"))
    assert slot is not None
    pair = np.flatnonzero(slot >= 0)
    taken, token = slot.reshape(-1)[pair], pair // max(slot.shape[2], 1)
    if buf is not None:
        x, rows = (array.reshape(len(array) * array.shape[1], call.sizes["D"]) for array in (call.arrays["x"], buf))
        assert rows[taken].tobytes() == x[token].tobytes(), f"{call}: buf doesn't hold the token at its slot"
    if src is not None:
        assert (src.reshape(-1)[taken] == token).all(), f"{call}: src doesn't lead back from slot"
        assert call.op != CHOICE or len(taken) == (src >= 0).sum(), f"{call}: a place has a token that no slot leads to"
    if expert is not None:
        assert (expert >= 0).all(), f"{call}: expert says nothing of a choice"
        assert (taken // call.sizes["M"] == expert.reshape(-1)[pair]).all(), f"{call}: another expert has that place"


class Fuzzer:
    """The running program, with counts of its results. Any unexpected result fails the test.

    Attributes:
        calls, refused: number of all calls, and number of refused calls.
        loads, refused_loads: number of all model loads, and number of refused loads.
        messages: all different error messages, without their digits.
    """

    def __init__(self, command: Sequence[str | Path], models: Iterable[Written], seed: int, **environment: str) -> None:
        pipe, variables = subprocess.PIPE, {**os.environ, **environment}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables)
        self._chance, self._numbers, self._by_op = Random(seed), dict[Path, int](), dict[str, list[Written]]()
        self.calls = self.refused = self.loads = self.refused_loads = 0
        self.messages = set[str]()
        for number, written in enumerate(models):
            self._numbers[written.file] = number
            self._by_op.setdefault(written.model.op, []).append(written)
            self._load(written)

    def step(self) -> None:
        """Call a random model. Each op is equally likely, however many models it has."""
        written = self._chance.choice(self._by_op[self._chance.choice(list(self._by_op))])
        if self._chance.random() < 0.01:  # load a model again, so that weights are packed, shared and freed
            if self._chance.random() < 0.5:
                self._ask("f", self._numbers[written.file])
            self._load(written)
        if written.model.expected != "never-loads":
            self._run(make_call(written, self._chance))

    def close(self) -> str:
        """End the program, and return its standard error. If its exit code is not 0, also return the exit code."""
        _, said = self._process.communicate()
        return said.decode() + (f"exit code {self._process.returncode}" if self._process.returncode else "")

    def _load(self, written: Written) -> None:
        threads = 2 if self._chance.random() < 0.25 else 1
        error = self._ask("l", self._numbers[written.file], str(written.file), threads)
        self.loads += 1
        self.refused_loads += bool(error)
        self._check_error(str(written.file), written.model.op, error, written.model.expected == "never-loads")

    def _run(self, call: Call) -> None:
        inputs, outputs = call.written.inputs, call.written.outputs
        fed: list[Word] = [len(inputs)]
        for name, array in call.arrays.items():
            fed += [name, ONNX_TYPES[inputs[name].type], array.shape, array.tobytes()]
        # With a pool, the op itself determines M, so the shape of src is not known in advance.
        shapes = {
            name: None if call.fault or (name == "src" and call.settings.get("pool")) else call.shape(port.dims)
            for name, port in outputs.items()
        }
        given: list[Word] = [len(outputs)]
        for name, shape in shapes.items():
            size = -1 if shape is None else int(np.prod(shape)) * DTYPES[outputs[name].type].itemsize
            given += [name, ONNX_TYPES[outputs[name].type], shape or [], size]
        error = self._ask("r", self._numbers[call.written.file], *fed, *given)
        self.calls += 1
        self.refused += bool(call.fault)
        self._check_error(str(call), call.op, error, call.fault)
        if error:
            return
        found = {}
        for name, shape in shapes.items():
            made = [self._number() for _ in range(self._number())]
            found[name] = np.frombuffer(self._data(), DTYPES[outputs[name].type]).reshape(made)
            if shape is None:
                assert made[0] == call.sizes["E"] and made[1] >= 1, f"{call}: src has no places"
                call.sizes["M"] = made[1]
        check_outputs(call, found)

    def _check_error(self, what: str, op: str, error: str, fault: str | bool) -> None:
        assert bool(error) == bool(fault), f"{what}: {f'refused: {error}' if error else f'taken in spite of {fault}'}"
        assert not error or op in error, f"{op} says only: {error}"
        self.messages |= {re.sub(r"\d", "", error)} - {""}

    def _ask(self, command: str, *words: Word) -> str:
        """Send a command to the program, and return the error message with which it replies.

        The message is empty if there was no error.
        """
        assert self._process.stdin
        self._process.stdin.write(command.encode() + b"".join(map(_written, words)))
        self._process.stdin.flush()
        return self._data().decode()

    def _number(self) -> int:
        return struct.unpack("q", self._read(8))[0]

    def _data(self) -> bytes:
        return self._read(self._number())

    def _read(self, size: int) -> bytes:
        assert self._process.stdout
        data = self._process.stdout.read(size)
        assert len(data) == size, self.close()
        return data


def _written(word: Word) -> bytes:
    """Encode a word of a command in the form that the program reads."""
    if isinstance(word, int):
        return struct.pack("q", word)
    if isinstance(word, str | bytes):
        data = word.encode() if isinstance(word, str) else word
        return struct.pack("q", len(data)) + data
    return struct.pack(f"q{len(word)}q", len(word), *word)
