"""Damaged bundles. Each one is a good bundle after a random change.

The change is repeatable, because it depends only on a seed.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import onnx
from bundle_changes import holds

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
GRAPHS = ("model.onnx", "model.inlined.onnx")
_OTHER_TEXTS = ("", "x", "weights.safetensors", "../x", "/proc/self/mem", "VmoeExpertMlp", "-1", "9" * 18)


TELLING_BYTES = [
    b"0", b"-1", b"null", b"true", b"[]", b"{}", b'""', b"\x00", b"\xff", b"\\u0000", b"9" * 30, b"0.5", b"1.0", b"1e3",
    b"NaN", b"-Infinity", b"1e999", b"-0", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xd9\xa1", b"\x7f", b"\t", b",", b'"',
]  # fmt: skip
TELLING_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 10, 12, 1.0, 0.3, 1.05, 1e3, 1e-7, 2**24, 2**31, 2**53, 2**53 + 1, 2**63, 2**64,
    10**300, -(2**63), 1e308, 5e-324, "", "1", "image", "batch", "tokens:10", "fp32", "bf16",
    "int8", "bf16-experts", "ceil", "round", "top-k", "experts-choice", "soft", 4, 3, "c0.3-k1-pool", "c0.3-k1-m3", "c1.0",
    "encoderblock_1", "encoderblock_\u0661", "c1-k1", "c0.3-k1-vanilla", "model.onnx", "weights.safetensors", "x" * 130,
    "\u00e4", "\U0001f600", "a\nb", [], {}, [1], ["encoderblock_1"], [1.0], [True], {"a": 1}, [[]],
]  # fmt: skip
TELLING_FIELDS = ['"format": 1, ', '"more": NaN, ', '"more": 1e400, ', '"a": 1, "a": 1, ']


def mutated_bytes(data: bytes, chance: Random) -> bytes:
    """Return the data after a few random changes.

    The changes alter, remove or repeat bytes, or replace bytes with `TELLING_BYTES`.
    """
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(changed))
        stop = min(len(changed), start + chance.choice((0, 1, 1, 4, 40)))
        how = chance.randrange(3)
        changed[start:stop] = (
            bytes([chance.randrange(256)]) * (stop - start) if how == 0
            else chance.choice(TELLING_BYTES) if how == 1
            else changed[start:stop] * chance.choice((0, 2))
        )  # fmt: skip
        changed = changed or bytearray(b" ")
    return bytes(changed)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) for each value in nested dicts and lists."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutated_values(data: bytes, chance: Random) -> bytes:
    """Return a JSON text after a few random changes that replace, copy, remove, repeat or rename values in it."""
    content = json.loads(data)
    for name in ("model", "validation", "flops_per_image"):  # large fields that these tests don't read
        content[name] = {}
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        spots = list(places(content))
        container, key = chance.choice(spots)
        how = chance.randrange(8)
        if how < 4:
            container[key] = copy.deepcopy(chance.choice(TELLING_VALUES))
        elif how == 4:
            del container[key]
        elif how == 5 and isinstance(container, dict):
            container[chance.choice(("more", "", "name", str(key).upper()))] = container.pop(key)
        elif how == 6 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif isinstance(container[key], int):
            container[key] += chance.choice((-1, 1))
        else:
            other, other_key = chance.choice(spots)
            container[key] = copy.deepcopy(other[other_key])
    text = json.dumps(content, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 1)))
    if chance.random() < 0.1:
        text = text.replace("{", "{" + chance.choice(TELLING_FIELDS), 1)
    return text.encode()


@dataclass(frozen=True)
class Mutation:
    """A change to a bundle.

    Attributes:
        words: a description of the change.
        may_differ: whether the changed bundle may give other logits than the original. This is allowed if the hashes were
            updated to match the change, because the result then counts as a different bundle.
        graph: the graph that must be run so that the change can have an effect.
    """

    words: str
    may_differ: bool
    graph: str


def mutate(base: Path, target: Path, rng: Random) -> Mutation:
    """Copy the bundle `base` to `target`, and make one change in the copy."""
    shutil.copytree(base, target)
    kind: Callable[[Path, Random], Mutation] = rng.choices(
        (_raw_bytes, _rehashed_bytes, _graph_field, _manifest_field), weights=(4, 3, 4, 4)
    )[0]
    return kind(target, rng)


def _raw_bytes(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice((MANIFEST, WEIGHTS, *GRAPHS))
    data = (bundle / name).read_bytes()
    changed = data[: rng.randrange(len(data))] if rng.random() < 0.2 else mutated_bytes(data, rng)
    (bundle / name).write_bytes(changed)
    return Mutation(f"bytes of {name}", changed == data, GRAPHS[0])


def _rehashed_bytes(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice((WEIGHTS, *GRAPHS))
    data = (bundle / name).read_bytes()
    # In most cases, change only the header, which locates the tensors. Changes in the rest of the file only alter numbers.
    part = data[: 8 + int.from_bytes(data[:8], "little")] if name == WEIGHTS and rng.random() < 0.7 else data
    holds(name, mutated_bytes(part, rng) + data[len(part) :])(bundle)
    return Mutation(f"bytes of {name}, hashes right", True, name if name in GRAPHS else rng.choice(GRAPHS))


def _graph_field(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice(GRAPHS)
    model = onnx.load(bundle / name, load_external_data=False)
    words = _change_message(model, rng)
    holds(name, model.SerializeToString())(bundle)
    return Mutation(f"{name}, hashes right: {words}", True, name)


def _change_message(message: Any, rng: Random, path: str = "") -> str:
    """Choose a random field in a protobuf message or its nested messages, and change, drop or repeat its value.

    Return a description of the change.
    """
    fields = message.ListFields()
    if not fields:
        return f"{path} is empty"
    descriptor, value = rng.choice(fields)
    path = f"{path}/{descriptor.name}"
    if not isinstance(value, str | bytes) and hasattr(value, "__len__"):
        return _change_list(value, rng, path)
    if hasattr(value, "ListFields"):
        if rng.random() < 0.9:
            return _change_message(value, rng, path)
        message.ClearField(descriptor.name)
        return f"{path} dropped"
    enum = descriptor.enum_type
    setattr(message, descriptor.name, rng.choice(enum.values).number if enum else _another(value, rng))
    return f"{path} = {getattr(message, descriptor.name)!r:.60}"


def _change_list(values: Any, rng: Random, path: str) -> str:
    index = rng.randrange(len(values))
    path = f"{path}[{index}]"
    action = rng.random()
    if action < 0.15:
        del values[index]
        return f"{path} dropped"
    if action < 0.3:
        values.extend([values[index]])
        return f"{path} doubled"
    if hasattr(values[index], "ListFields"):
        return _change_message(values[index], rng, path)
    values[index] = _another(values[index], rng)
    return f"{path} = {values[index]!r:.60}"


def _another(value: Any, rng: Random) -> Any:
    """Return another value of the same type that protobuf accepts in the same field."""
    if isinstance(value, bytes):
        return mutated_bytes(value, rng) if value else b"\0"
    if isinstance(value, str):
        return rng.choice((value[:-1], value + "x", *_OTHER_TEXTS))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), value * 2))
    # Keep numbers below 2**31, because int32 fields don't accept larger numbers.
    return rng.choice((0, 1, 2, 7, 10, 16, value + 1, max(value - 1, 0), value * 2, 2**31 - 1)) % 2**31


def _manifest_field(bundle: Path, rng: Random) -> Mutation:
    path = bundle / MANIFEST
    path.write_bytes(mutated_values(path.read_bytes(), rng))
    return Mutation(f"values of {MANIFEST}", False, rng.choice(GRAPHS))
