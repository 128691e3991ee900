"""Tests of two-step inference.

They check which images are escalated, which results the images get, and how the margin is calibrated.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_files import refusal
from image_parts import in_parts

from vmoe_measure.cascade import ESCALATE_ALL, calibrated_margin
from vmoe_runtime import ClassifyError, Engine, RoutingError
from vmoe_runtime.classes import margins_of

LOW, HIGH = "c0.2-k1-pool", "c1.05-k2"
HALVES = (slice(0, 768), slice(768, 1536))
BUNDLES = Path(__file__).parents[1] / "data" / "bundles"


@pytest.fixture(scope="module")
def alone(engine: Engine, mnist_images: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return each setting's results when it runs alone, without a cascade.

    They are the logits, f32[1536,10], and the number of kept pairs for each image, i64[1536].
    """

    def run(setting: str, part: np.ndarray) -> list[np.ndarray]:
        logits, routing = engine.logits_and_routing(part, setting)
        return [logits, np.sum([layer.kept.sum(axis=(1, 2)) for layer in routing.values()], axis=0)]

    return {setting: in_parts(functools.partial(run, setting), mnist_images["images"]) for setting in (LOW, HIGH)}


@pytest.mark.parametrize("half", [0, 1])
def test_a_calibrated_cascade_loses_one_image_at_most_for_two_fifths_of_the_pairs(
    half: int, engine: Engine, alone: dict[str, list[np.ndarray]], mnist_images: dict[str, np.ndarray]
) -> None:
    images, labels = mnist_images["images"], mnist_images["labels"]
    seen, held_out = HALVES[half], HALVES[1 - half]
    (low, low_kept), (high, high_kept) = alone[LOW], alone[HIGH]
    margin = calibrated_margin(low[seen], high[seen], labels[seen])
    logits, escalated = engine.cascade(first=LOW, then=HIGH, margin=margin).answers(images[held_out])
    right = np.count_nonzero(high[held_out].argmax(1) == labels[held_out])
    assert np.count_nonzero(logits.argmax(1) == labels[held_out]) >= right - 1
    assert low_kept[held_out].sum() + high_kept[held_out][escalated].sum() <= 0.4 * high_kept[held_out].sum()


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.9, ESCALATE_ALL])
def test_each_image_has_the_logits_of_its_last_step(
    margin: float, engine: Engine, alone: dict[str, list[np.ndarray]], mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:300]
    low, high = (alone[setting][0][:300] for setting in (LOW, HIGH))
    logits, escalated = engine.cascade(first=LOW, then=HIGH, margin=margin).answers(images)
    shares = np.exp(low.astype(np.float64))
    best = np.sort(shares / shares.sum(1, keepdims=True), axis=1)
    np.testing.assert_array_equal(escalated, best[:, -1] - best[:, -2] < margin)
    np.testing.assert_array_equal(logits, np.where(escalated[:, None], high, low))
    assert 0 < escalated.sum() < 300 or margin in (0.0, ESCALATE_ALL)
    np.testing.assert_array_equal(engine.cascade(first=LOW, then=HIGH, margin=margin)(images), logits)


def test_whole_groups_of_the_least_sure_are_escalated(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    images = mnist_images["images"][:160]
    with Engine.load(mnist_bundle) as grouped:
        low = grouped(images, "c0.1-k1")
        logits, escalated = grouped.cascade(first="c0.1-k1", then=HIGH, margin=0.5).answers(images)
        unsure = margins_of(low) < 0.5
        assert escalated.sum() % 16 == 0 and unsure.sum() < escalated.sum() < unsure.sum() + 16
        assert escalated[unsure].all()
        assert margins_of(low)[escalated].max() <= margins_of(low)[~escalated].min()
        np.testing.assert_array_equal(logits[~escalated], low[~escalated])
        np.testing.assert_array_equal(logits[escalated], grouped(images[escalated], HIGH))


def test_an_image_that_gives_no_number_is_escalated(engine: Engine, mnist_images: dict[str, np.ndarray]) -> None:
    images = mnist_images["images"][:3].astype(np.float32)[..., None] / 127.5 - 1
    images[1, 14, 14, 0] = np.nan
    with pytest.warns(UserWarning, match="NaN"):
        _, escalated = engine.cascade(first=LOW, then=HIGH, margin=0.0).answers(images)
    assert escalated.tolist() == [False, True, False]


def test_margins_are_of_probabilities() -> None:
    logits = np.array([[0.0, 0.0, -50.0], [100.0, 0.0, 0.0], [np.nan, 0, 0], [1.0, 0.0, -np.inf]], np.float32)
    margins = margins_of(logits)
    np.testing.assert_allclose(margins[[0, 1, 3]], [0, 1, np.tanh(0.5)], atol=1e-12)
    assert np.isnan(margins[2])
    assert margins_of(np.zeros((2, 1), np.float32)).tolist() == [1.0, 1.0]


def answers(*sure: tuple[int, float]) -> np.ndarray:
    """Return logits of two classes, one row for each (class, margin) in `sure`."""
    logits = np.zeros((len(sure), 2))
    for row, (label, margin) in zip(logits, sure, strict=True):
        row[label] = 2 * np.arctanh(margin)
    return logits


@pytest.mark.parametrize(
    ("first", "lost", "share"),
    [
        ([(0, 0.1), (0, 0.2), (0, 0.3), (0, 0.4)], 0, 0.0),  # all correct
        ([(1, 0.1), (0, 0.2), (0, 0.3), (0, 0.4)], 0, 0.25),
        ([(1, 0.1), (0, 0.2), (1, 0.3), (0, 0.4)], 0, 0.75),
        ([(1, 0.1), (0, 0.2), (1, 0.3), (0, 0.4)], 1, 0.25),
        ([(1, 0.1), (0, 0.2), (1, 0.3), (0, 0.4)], 2, 0.0),
        ([(0, 0.1), (0, 0.2), (0, 0.3), (1, 0.4)], 0, 1.0),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_calibrated_margin_escalates_no_more_than_needed(
    first: list[tuple[int, float]], lost: int, share: float, *, labelled: bool
) -> None:
    low, high = answers(*first), answers(*[(0, 0.9)] * len(first))
    margin = calibrated_margin(low, high, np.zeros(len(first), np.int64) if labelled else None, lost)
    assert np.mean(margins_of(low) < margin) == share


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_who_is_as_sure_as_one_that_is_escalated_is_escalated_too(margin: float, engine: Engine) -> None:
    low = answers((0, 0.1), (0, margin), (0, margin), (0, 0.9)) if margin < 1 else np.array([[40.0, 0], [40.0, 0]])
    high = np.array([[0, 9.0], [0, 9.0], [9.0, 0], [9.0, 0]])[: len(low)]
    labels = high.argmax(1)
    found = calibrated_margin(low, high, labels)
    escalated = margins_of(low) < found
    assert np.where(escalated, high.argmax(1), low.argmax(1)).tolist() == labels.tolist()
    assert escalated.tolist() == [True, True, True, False][: len(low)]


def test_what_is_no_number_is_escalated_at_any_calibrated_margin() -> None:
    low, high = answers((0, 0.1), (0, 0.2), (0, 0.3)), answers((0, 0.9), (0, 0.9), (1, 0.9))
    low[:2] = np.nan
    assert calibrated_margin(low, high, np.array([0, 0, 0]), lost=1) == 0.0
    assert calibrated_margin(low[:2], high[:2]) == 0.0


def test_the_second_step_may_be_wrong_where_the_first_is_right() -> None:
    low, high = answers((1, 0.1), (0, 0.2), (0, 0.3)), answers((0, 0.9), (1, 0.9), (0, 0.9))
    # Escalating the first image makes its result right. Escalating the second image makes its result wrong, because the
    # second setting misclassifies this image.
    assert np.mean(margins_of(low) < calibrated_margin(low, high, np.zeros(3, np.int64))) == 0
    assert calibrated_margin(low, high, np.zeros(3, np.int64), lost=-1) == ESCALATE_ALL
    # the margins are equal, so either both images are escalated or neither one
    low, high = answers((0, 0.2), (1, 0.2)), answers((1, 0.9), (0, 0.9))
    assert calibrated_margin(low, high, np.zeros(2, np.int64)) == 0.0


@pytest.mark.parametrize(
    ("rows", "labels", "words"),
    [
        (3, [[0], [0], [0]], "(3, 1)"),
        (3, [0], "(1,)"),
        (3, ["0", "0", "0"], "<U1"),
        (1, [0, 0, 0], "(1, 2), (3, 2)"),
    ],
    ids=["a column of labels", "one label", "labels as text", "logits of one image"],
)
def test_a_margin_is_calibrated_only_on_a_label_for_each_image(rows: int, labels: list[Any], words: str) -> None:
    low, high = answers((1, 0.1), (0, 0.2), (0, 0.3)), answers(*[(0, 0.9)] * 3)
    with refusal(ClassifyError, words):
        calibrated_margin(low[:rows], high, np.array(labels))


@pytest.mark.parametrize("margin", [-0.1, float("nan"), "0.5", None, True])
def test_a_margin_that_is_none_is_one_sentence(margin: Any, engine: Engine) -> None:
    with pytest.raises(ClassifyError, match="the margin of a cascade is a number from 0 to 1"):
        engine.cascade(first=LOW, then=HIGH, margin=margin)


def test_what_can_not_be_a_cascade_is_one_sentence(engine: Engine) -> None:
    with pytest.raises(RoutingError, match="there is no profile 'low'"):
        engine.cascade(first="low", then=HIGH, margin=0.5)
    with Engine.load(BUNDLES / "v3-soft") as soft, pytest.raises(RoutingError):
        soft.cascade(first=LOW, then=HIGH, margin=0.5)
