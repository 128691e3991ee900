"""Bundles with something wrong in them, made from a good one by a numbered, repeatable draw."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import onnx

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
GRAPHS = ("model.onnx", "model.inlined.onnx")
_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**40,
    0.0,
    1.0,
    0.3,
    1e-300,
    1e308,
)
_TEXTS = ("", "0", "c0.3-k1", "../weights.safetensors", "\u0661", "\ud83d\ude42", "a" * 5000, "\n")
_INTERESTING = (*_NUMBERS, *_TEXTS, None, True, False, [], {}, [0], {"a": 1})
_OTHER_TEXTS = ("", "x", "weights.safetensors", "../x", "/proc/self/mem", "VmoeExpertMlp", "-1", "9" * 18)


@dataclass(frozen=True)
class Mutation:
    """What was done to a bundle.

    Attributes:
        words: for a person who looks for the case.
        may_differ: the hashes were made right again, so the bundle is another one and its answers may be, too.
        graph: the graph that should be run, so that the change can have an effect.
    """

    words: str
    may_differ: bool
    graph: str


def mutate(base: Path, target: Path, rng: Random) -> Mutation:
    """Copies the bundle `base` to `target` and changes one thing in the copy."""
    shutil.copytree(base, target)
    kind: Callable[[Path, Random], Mutation] = rng.choices(
        (_raw_bytes, _rehashed_bytes, _graph_field, _manifest_field), weights=(4, 3, 4, 4)
    )[0]
    return kind(target, rng)


def _raw_bytes(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice((MANIFEST, WEIGHTS, *GRAPHS))
    data = (bundle / name).read_bytes()
    changed, words = _change_bytes(data, rng)
    (bundle / name).write_bytes(changed)
    return Mutation(f"{name}: {words}", changed == data, GRAPHS[0])


def _rehashed_bytes(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice((WEIGHTS, *GRAPHS))
    data = (bundle / name).read_bytes()
    # The header says where tensors lie; a change anywhere else is one of numbers.
    part = data[: 8 + int.from_bytes(data[:8], "little")] if name == WEIGHTS and rng.random() < 0.7 else data
    changed, words = _change_bytes(part, rng)
    _put(bundle, name, changed + data[len(part) :])
    return Mutation(f"{name}, hashes right: {words}", True, name if name in GRAPHS else rng.choice(GRAPHS))


def _change_bytes(data: bytes, rng: Random) -> tuple[bytes, str]:
    changed = bytearray(data)
    start = rng.randrange(len(data))
    length = min(rng.choice((1, 2, 4, 8, 64, 4096)), len(data) - start)
    kind = rng.choice(("flip", "set", "zero", "cut", "remove", "repeat", "append", "swap"))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "set":
        changed[start : start + length] = rng.randbytes(length)
    elif kind == "zero":
        changed[start : start + length] = bytes(length)
    elif kind == "cut":
        del changed[start:]
    elif kind == "remove":
        del changed[start : start + length]
    elif kind == "repeat":
        changed[start:start] = changed[start : start + length]
    elif kind == "append":
        changed += rng.randbytes(length)
    else:
        other = rng.randrange(len(data) - length + 1)
        first, second = data[start : start + length], data[other : other + length]
        changed[start : start + length], changed[other : other + length] = second, first
    return bytes(changed), f"{kind} {length} at {start}"


def _graph_field(bundle: Path, rng: Random) -> Mutation:
    name = rng.choice(GRAPHS)
    model = onnx.load(bundle / name, load_external_data=False)
    words = _change_message(model, rng)
    _put(bundle, name, model.SerializeToString())
    return Mutation(f"{name}, hashes right: {words}", True, name)


def _change_message(message: Any, rng: Random, path: str = "") -> str:
    """Walks down to a random field that is set, and changes, drops or doubles what is there."""
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
    """Another value of the same type, which protobuf takes."""
    if isinstance(value, bytes):
        return _change_bytes(value, rng)[0] if value else b"\0"
    if isinstance(value, str):
        return rng.choice((value[:-1], value + "x", *_OTHER_TEXTS))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), value * 2))
    # int32 fields take no more than 31 bits.
    return rng.choice((0, 1, 2, 7, 10, 16, value + 1, max(value - 1, 0), value * 2, 2**31 - 1)) % 2**31


def _manifest_field(bundle: Path, rng: Random) -> Mutation:
    path = bundle / MANIFEST
    content = json.loads(path.read_bytes())
    words = _change_json(content, rng)
    path.write_text(json.dumps(content), encoding="utf-8")
    return Mutation(f"{MANIFEST}: {words}", False, rng.choice(GRAPHS))


def _change_json(content: Any, rng: Random, path: str = "") -> str:
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not keys:
        return f"{path} is empty"
    key = rng.choice(keys)
    path = f"{path}/{key}"
    if isinstance(content[key], dict | list) and rng.random() < 0.8:
        return _change_json(content[key], rng, path)
    action = rng.random()
    if action < 0.2:
        del content[key]
        return f"{path} dropped"
    if action < 0.3 and isinstance(content, dict):
        content[f"{key}_"] = content.pop(key)
        return f"{path} renamed"
    content[key] = rng.choice(_INTERESTING)
    return f"{path} = {content[key]!r:.60}"


def _put(bundle: Path, name: str, data: bytes) -> None:
    (bundle / name).write_bytes(data)
    content = json.loads((bundle / MANIFEST).read_bytes())
    content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
