"""Tests of `Engine.classify` and of engine descriptions.

`Engine.classify` returns the most likely classes and their probabilities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_runs import kept_bundle
from damaged_files import copied_bundle, put

from vmoe_runtime import ClassifyError, Engine
from vmoe_runtime.classes import most_probable, sigmoid, softmax

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_probabilities_are_those_of_a_softmax_over_all_classes() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (20, 7)).astype(np.float32)
    exact = np.exp(logits.astype(np.longdouble))
    np.testing.assert_allclose(softmax(logits), exact / exact.sum(1, keepdims=True), rtol=1e-14)
    assert softmax(logits).dtype == np.float64
    np.testing.assert_array_equal(softmax(np.array([[3e38, -3e38, 3e38]], np.float32)), [[0.5, 0, 0.5]])


def test_logits_that_are_no_numbers_give_no_numbers() -> None:
    shares = softmax(np.array([[1, np.nan], [np.inf, 0], [1, 1]], np.float32))
    np.testing.assert_array_equal(np.isnan(shares), [[True, True], [True, True], [False, False]])


def test_a_bundle_may_say_that_each_class_has_a_probability_of_its_own(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    logits = np.array([[0, -2, 900, -900, np.nan]], np.float32)
    np.testing.assert_allclose(sigmoid(logits)[0], [0.5, 1 / (1 + np.exp(2)), 1, 0, np.nan], rtol=1e-14)
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "x.vmoe", put("probabilities", "sigmoid"))
    with Engine.load(bundle, threads=1) as engine:
        found, exact = engine.classify(mnist_images["images"][:8], 10), engine(mnist_images["images"][:8]).astype(float)
    for answer, row in zip(found, exact, strict=True):
        assert [index for index, _ in answer] == np.argsort(-row, kind="stable").tolist()
        np.testing.assert_allclose([share for _, share in answer], 1 / (1 + np.exp(-np.sort(row)[::-1])), rtol=1e-12)


def test_the_largest_come_first_and_of_equal_ones_the_lower_index() -> None:
    logits = np.array([[1, 5, 2, 5, 0], [0, 0, 0, 0, 0]], np.float32)
    assert most_probable(logits, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    # The order must be right even if two probabilities round to 0.
    assert most_probable(np.array([[0, -900, -800]], np.float32), 3).tolist() == [[0, 2, 1]]
    assert most_probable(logits, 99).shape == (2, 5)


def test_classes_have_their_names(mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path) -> None:
    images = mnist_images["images"][:8]
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "x.vmoe", put("class_names", DIGITS))
    with Engine.load(bundle, threads=1) as engine:
        logits, answers = engine(images), engine.classify(images, top=3)
        assert [[name for name, _ in answer] for answer in answers] == [
            [DIGITS[i] for i in np.argsort(-row)[:3]] for row in logits
        ]
        everything = engine.classify(images, top=1000)
    assert all(len(answer) == 10 and sum(p for _, p in answer) == pytest.approx(1) for answer in everything)
    assert [answer[:3] for answer in everything] == answers


def test_without_names_classes_are_indices_and_five_of_them(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    with Engine.load(mnist_image_bundle, threads=1) as engine:
        (answer,) = engine.classify(mnist_images["images"][:1])
        assert [type(index) for index, _ in answer] == [int] * 5
        assert answer[0][0] == mnist_images["labels"][0]
        assert type(answer[0][1]) is float


@pytest.mark.parametrize("top", [0, -1, 2.0, True, "3", None])
def test_a_number_of_classes_that_is_none_is_refused(top: Any, mnist_image_bundle: Path) -> None:
    with Engine.load(mnist_image_bundle, threads=1) as engine, pytest.raises(ClassifyError, match="top must be a whole"):
        engine.classify(np.zeros((1, 28, 28), np.uint8), top=top)


def test_features_have_no_classes() -> None:
    with Engine.load(kept_bundle("dense"), threads=1) as engine, pytest.raises(ClassifyError, match="outputs features"):
        engine.classify(np.zeros((1, 12, 12, 3), np.uint8))
