"""Mutated manifests and graphs are taken and refused by both readers alike."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from bundle_changes import BUNDLES, CANONICAL, MANIFEST
from bundle_verdicts import cpp_verdicts, python_verdict
from damaged_files import assert_one_sentence

from vmoe_runtime.bundle.external_data import external_data
from vmoe_runtime.bundle.manifest_reader import parse_manifest

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


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, taken out, doubled or swapped for others that mean something."""
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
    """(container, key) of each value inside."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutated_values(data: bytes, chance: random.Random) -> bytes:
    """A JSON text whose values were swapped, taken out, doubled, renamed or written otherwise."""
    content = json.loads(data)
    for name in ("model", "validation", "flops_per_image"):  # large, and read by nobody here
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


def manifests(kept: list[bytes]) -> Iterator[bytes]:
    """Those that are given, and 4,000 mutations of them: a third of bytes, the rest of values."""
    chance = random.Random(11)
    for data in kept:
        yield from (data, data + b"\0", data + b"\0{", data + b" \n")
    for i in range(4000):
        yield (mutated_bytes if i % 3 == 0 else mutated_values)(chance.choice(kept), chance)


def test_mutated_manifests_get_the_same_verdict_from_both_readers() -> None:
    tried = list(manifests([path.read_bytes() for path in sorted(BUNDLES.glob(f"*/{MANIFEST}"))]))
    python, cpp = [python_verdict(parse_manifest, data) for data in tried], cpp_verdicts("manifest", tried)
    assert_alike(tried, python, cpp)


@pytest.mark.parametrize("base", ["v3-plain", "v3-int8", "v3-dense"])
def test_mutated_graphs_get_the_same_verdict_from_both_readers(base: str) -> None:
    chance = random.Random(12)
    data = (BUNDLES / base / CANONICAL).read_bytes()
    tried = [data, *(mutated_bytes(data, chance) for _ in range(300))]
    assert_alike(tried, [python_verdict(external_data, graph) for graph in tried], cpp_verdicts("graph", tried))


def assert_alike(tried: list[bytes], python: list[str | None], cpp: list[str | None]) -> None:
    different = [i for i, (a, b) in enumerate(zip(python, cpp, strict=True)) if (a is None) != (b is None)]
    assert not different, [(python[i], cpp[i], tried[i][:2000]) for i in different[:3]]
    for sentence in filter(None, [*python, *cpp]):
        assert_one_sentence(sentence)
        assert len(sentence) < 600
    assert 0.1 < python.count(None) / len(python) < 0.98
