"""Check that the Python and the C++ reader agree on which mutated manifests and graphs to accept."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from bundle_changes import BUNDLES, CANONICAL, MANIFEST
from bundle_verdicts import cpp_verdicts, python_verdict
from damaged_files import assert_one_sentence
from mutated_bundles import mutated_bytes, mutated_values

from vmoe_runtime.bundle.external_data import external_data
from vmoe_runtime.bundle.manifest_reader import parse_manifest


def manifests(kept: list[bytes]) -> Iterator[bytes]:
    """Yield each manifest in `kept`, first unchanged and then with bytes appended. Then yield 4,000 mutations.

    A third of the mutations change bytes of the text. The rest change values in the JSON.
    """
    chance = random.Random(11)
    for data in kept:
        yield from (data, data + b"\0", data + b"\0{", data + b" \n")
    for i in range(4000):
        yield (mutated_bytes if i % 3 == 0 else mutated_values)(chance.choice(kept), chance)


def test_mutated_manifests_get_the_same_verdict_from_both_readers() -> None:
    tried = list(manifests([path.read_bytes() for path in sorted(BUNDLES.glob(f"*/{MANIFEST}"))]))
    python, cpp = [python_verdict(parse_manifest, data) for data in tried], cpp_verdicts("manifest", tried)
    assert_alike(tried, python, cpp)


@pytest.mark.sample(1)
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
