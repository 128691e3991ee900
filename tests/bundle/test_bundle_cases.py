"""Both readers give the same verdict on every good and bad bundle, and say what is wrong."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from bundle_cases import CASES
from bundle_changes import Case
from bundle_verdicts import both_verdicts
from damaged_files import assert_one_sentence

Verdicts = dict[tuple[str, str], str | None]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """The sentence that refuses, or None, by reader and case."""
    folder = tmp_path_factory.mktemp("cases")
    paths = []
    for i, case in enumerate(CASES):
        (folder / str(i)).mkdir()
        paths.append(case.build(folder / str(i)))
    found = both_verdicts(paths)
    return {(reader, c.name): s for reader, sentences in found.items() for c, s in zip(CASES, sentences, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_readers_say(case: Case, verdicts: Verdicts) -> None:
    for reader in ("Python", "C++"):
        sentence = verdicts[reader, case.name]
        if case.good:
            assert sentence is None, reader
        else:
            assert sentence is not None, reader
            assert_one_sentence(sentence, "x.vmoe", *case.words)
            assert len(sentence.replace(str(Path(sentence.split("x.vmoe")[0])), "")) < 400, reader


def test_there_are_enough_cases_each_with_a_name_of_its_own() -> None:
    names = collections.Counter(case.name for case in CASES)
    assert max(names.values()) == 1
    assert len(names) >= 150
    assert sum(case.good for case in CASES) >= 25
