"""Check that the Python and the C++ bundle reader agree on every good and bad bundle.

For a bad bundle, the message must name the fault.
"""

from __future__ import annotations

from pathlib import Path

import c_engine
import numpy as np
import pytest
from bundle_cases import CASES
from bundle_changes import BUNDLES, WEIGHTS, Case
from bundle_file_cases import INTERFACES
from bundle_verdicts import both_verdicts
from damaged_files import assert_one_sentence, refusal

from vmoe_runtime import BundleError, Engine

Verdicts = dict[tuple[str, str], str | None]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Return what each reader says about each case.

    The value is the message with which the reader refuses the bundle, or None if the reader accepts it.
    """
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
            assert len(sentence) < 600, reader


@pytest.mark.parametrize("case", INTERFACES, ids=lambda case: case.name)
def test_a_graph_that_the_manifest_contradicts_is_refused_when_it_is_loaded(case: Case, tmp_path: Path) -> None:
    bundle = case.build(tmp_path)
    backend = "openvino" if "model.inlined.onnx" in case.words else "onnxruntime"
    with refusal(Exception, "x.vmoe", *case.words):
        Engine.load(bundle, backend=backend, threads=1)
    if backend == "onnxruntime" and c_engine.sdk() is not None:
        with refusal(c_engine.RefusedError, "x.vmoe", *case.words):
            c_engine.answer(bundle, np.zeros((1, 12, 12, 3), np.float32), 7)


@pytest.mark.parametrize("name", ["weights with one bit changed", "weights cut short", "a pipe as manifest", "no output"])
def test_an_engine_refuses_what_the_readers_refuse(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    bundle = case.build(tmp_path)
    for verify in (True, False):
        if not verify and "changed" in name:  # SHA-256 digests are compared only with `verify`
            continue
        with refusal(BundleError, "x.vmoe", *case.words):
            Engine.load(bundle, verify=verify)


@pytest.mark.parametrize("path", ["absent.vmoe", "x" * 300, str(BUNDLES / "v3-plain" / WEIGHTS)])
def test_what_is_no_folder_is_no_bundle(path: str, tmp_path: Path) -> None:
    with refusal(BundleError, "not a bundle"):
        Engine.load(tmp_path / path)
