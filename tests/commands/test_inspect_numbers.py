"""Tests for numbers about the routing of images, compared with simple counts of (token, expert) pairs.

The numbers are about patches, statistics, neighbours and agreement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from command_runs import kept_bundle
from damaged_files import refusal

from vmoe_export import export_bundle
from vmoe_runtime import Engine, Routing, RoutingError
from vmoe_runtime.routing import TokenLayout
from vmoe_tools.inspect.agreement import AgreementCount
from vmoe_tools.inspect.interference import interference
from vmoe_tools.inspect.patches import layer_patches
from vmoe_tools.inspect.statistics import BINS, LayerStatistics, RoutingStatistics

pytestmark = pytest.mark.fast

IMAGES = max(BUNDLES.glob("v*.npz"))
EXPERTS, TOKENS, CLASSES, SIDE = 8, 50, 10, 7  # sizes of the MNIST model; its first token is the class token

Pair = tuple[int, int, float, bool]
"""A choice: its token over all images, its expert (-1 if unknown), its gate, and whether it was kept."""


def pairs_of(routing: Routing) -> Iterator[Pair]:
    """Yield the (token, expert) pairs that a layer's tokens chose, one by one."""
    groups, tokens = (routing.combine if routing.kept is None else routing.kept).shape[:2]
    for token in range(groups * tokens):
        place = divmod(token, tokens)
        if routing.kind == "soft":
            for expert, shares in enumerate(routing.combine[place]):
                yield token, expert, float(shares.sum()), True
        else:
            for choice, kept in enumerate(routing.kept[place]):
                expert = choice if routing.expert is None else int(routing.expert[place][choice])
                yield token, expert, float(routing.weight[place][choice]), bool(kept)


def assert_patches(routing: Routing, members: int = 1, tokens: int = TOKENS, side: int = SIDE) -> None:
    """Compare the result of `layer_patches` with the layer's routing, patch by patch."""
    found = layer_patches(routing)
    kept: dict[int, list[tuple[float, int]]] = {}
    for token, expert, gate, is_kept in pairs_of(routing):
        if is_kept:
            kept.setdefault(token // members, []).append((gate, expert))
    patches = 0
    for (image, row, column), processed in np.ndenumerate(found.processed):
        own = kept.get(image * tokens + 1 + row * side + column, [])
        place = (image, row, column)
        assert processed == len(own)
        if own:
            heaviest = max(gate for gate, _ in own)
            assert found.weight[place] == np.float32(heaviest)
            assert found.expert[place] == next(expert for gate, expert in own if gate == heaviest)
        else:
            assert (found.weight[place], found.expert[place]) == (0, -1)
        patches += 1
    assert patches == found.processed.shape[0] * side * side
    np.testing.assert_array_equal(found.processed > 0, routing.patch_mask())


def assert_statistics(found: LayerStatistics, routing: Routing, labels: np.ndarray, experts: int, tokens: int) -> None:
    """Compare the statistics of one layer with the layer's routing, pair by pair."""
    load, requested = Counter[int](), Counter[int]()
    bins = {True: [0] * BINS, False: [0] * BINS}
    by_class = np.zeros((CLASSES, experts))
    kept_pairs = all_pairs = 0
    for token, expert, gate, kept in pairs_of(routing):
        all_pairs += 1
        requested[expert] += 1
        bins[kept][min(math.floor(gate * BINS), BINS - 1)] += 1
        if kept:
            kept_pairs += 1
            load[expert] += 1
            by_class[labels[token // tokens], expert] += gate
    assert found.images == len(labels)
    assert found.load.tolist() == [load[e] for e in range(experts)]
    assert found.pairs_dropped == pytest.approx(1 - kept_pairs / all_pairs, abs=1e-12)
    assert found.patches_dropped == pytest.approx(1 - routing.patch_mask().mean(), abs=1e-12)
    if routing.kind == "top-k":
        assert found.requested is not None and found.requested.tolist() == [requested[e] for e in range(experts)]
        assert found.expert_dropped == pytest.approx(np.array([1 - load[e] / requested[e] for e in range(experts)]))
    shares = [load[e] / kept_pairs for e in range(experts) if load[e]]
    assert found.load_entropy == pytest.approx(-sum(s * math.log(s) for s in shares) / math.log(experts))
    assert (found.gates_kept.tolist(), found.gates_dropped.tolist()) == (bins[True], bins[False])
    images = np.bincount(labels, minlength=CLASSES)
    assert found.class_images is not None and found.class_images.tolist() == images.tolist()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.class_weight, by_class / (images * tokens)[:, None], rtol=1e-6)


@pytest.fixture(scope="module")
def grouped(mnist_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_bundle) as engine:
        yield engine


# Patches


@pytest.mark.parametrize("setting", ["c0.3-k1", "c0.2-k2-vanilla", "c0.3-k2-pool-m3"])
def test_every_patch_is_what_its_choices_say(setting: str, grouped: Engine, mnist_images: dict[str, np.ndarray]) -> None:
    for routing in grouped.routing(mnist_images["images"][:32], setting).values():
        assert_patches(routing)


@pytest.mark.parametrize(
    ("name", "setting", "members"),
    [("choice", "c0.5", 1), ("soft", None, 1), ("ensemble", "c0.3-k2", 2)],
)
def test_patches_of_every_kind(name: str, setting: str | None, members: int) -> None:
    with np.load(IMAGES) as data, Engine.load(kept_bundle(name)) as engine:
        for routing in engine.routing(data["images"], setting).values():
            assert_patches(routing, members, tokens=10, side=3)


def test_where_patches_are_not_known_that_is_said() -> None:
    kept = np.ones((2, 10, 1), bool)
    unknown = Routing("top-k", None, 4, kept, kept.astype(np.float32), kept.astype(np.int32))
    with pytest.raises(RoutingError, match="doesn't say which tokens are patches"):
        layer_patches(unknown)
    statistics = RoutingStatistics()
    statistics.add({"block": unknown, "odd": replace(unknown, layout=TokenLayout(7, 1, 2, 3))}, images=2)
    layers = statistics.layers()
    assert [layer.patches_dropped for layer in layers.values()] == [None, None]
    assert layers["block"].load.tolist() == [0, 20, 0, 0]


# Statistics


@pytest.mark.parametrize("setting", ["c0.5-k2", "c0.2-k1-vanilla", "c0.3-k2-pool-m3"])
def test_statistics_are_the_count_over_all_batches(
    setting: str, grouped: Engine, mnist_images: dict[str, np.ndarray]
) -> None:
    images, labels = mnist_images["images"][:48], mnist_images["labels"][:48]
    statistics = RoutingStatistics(CLASSES)
    for start in range(0, 48, 16):
        chosen = slice(start, start + 16)
        statistics.add(grouped.routing(images[chosen], setting), 16, labels[chosen])
    whole = grouped.routing(images, setting)
    for name, found in statistics.layers().items():
        assert_statistics(found, whole[name], labels, EXPERTS, TOKENS)
        assert found.gate_entropy is None  # unknown, because the routing contains only the gates of the k chosen experts


def test_all_gates_have_an_entropy(engine: Engine, mnist_images: dict[str, np.ndarray]) -> None:
    images = mnist_images["images"][:8]
    statistics = RoutingStatistics()
    routing = engine.routing(images, "c8-k8")
    statistics.add(routing, 8)
    for name, found in statistics.layers().items():
        gates = routing[name].weight.astype(np.float64).reshape(-1, EXPERTS)
        assert found.gate_entropy == pytest.approx((-gates * np.log(gates)).sum(axis=1).mean() / math.log(EXPERTS))
        assert 0.1 < found.gate_entropy < 0.95
        assert (found.pairs_dropped, found.patches_dropped, found.load_entropy) == (0, 0, pytest.approx(1))
        assert (found.class_weight, found.class_images) == (None, None)


def test_statistics_with_experts_choice() -> None:
    labels = np.array([3, 1, 4, 1, 5, 9])
    with np.load(IMAGES) as data, Engine.load(kept_bundle("choice")) as engine:
        ((name, routing),) = engine.routing(data["images"], "c0.5").items()
    statistics = RoutingStatistics(CLASSES)
    statistics.add({name: routing}, 6, labels)
    found = statistics.layers()[name]
    assert_statistics(found, routing, labels, 4, 10)
    assert (found.requested, found.expert_dropped) == (None, None)
    gates = routing.weight.astype(np.float64).reshape(-1, 4)
    np.testing.assert_allclose(found.gate_entropy, (-gates * np.log(gates + 1e-300)).sum(axis=1).mean() / math.log(4))


def test_a_soft_moe_has_shares_in_place_of_pairs() -> None:
    with np.load(IMAGES) as data, Engine.load(kept_bundle("soft")) as engine:
        routing = engine.routing(data["images"])
    statistics = RoutingStatistics(CLASSES)
    statistics.add(routing, 6, np.arange(6))
    ((name, found),) = statistics.layers().items()
    shares = routing[name].combine.astype(np.float64).sum(axis=3)
    np.testing.assert_allclose(found.load, shares.sum(axis=(0, 1)), rtol=1e-6)
    assert found.load.sum() == pytest.approx(60, rel=1e-5)
    np.testing.assert_allclose(found.class_weight[:6], shares.mean(axis=1), rtol=1e-6)
    assert np.isnan(found.class_weight[6:]).all()
    assert (found.requested, found.pairs_dropped, found.patches_dropped) == (None, None, 0)
    assert (found.gates_kept.sum(), found.gates_dropped.sum()) == (240, 0)


MISCOUNTED: dict[str, tuple[Any, Any, str]] = {
    "half of the images": (8, None, "not that of 8 images"),
    "twice the images": (32, None, "not that of 32 images"),
    "no images": (0, None, "not that of 0 images"),
    "images as text": ("16", None, "not that of '16' images"),
    "a column": (16, np.zeros((16, 1), int), "labels must be 16 whole numbers from 0 to 9, not array"),
    "too few": (16, [1] * 15, "labels must be 16 whole numbers"),
    "fractions": (16, [1.5] * 16, "labels must be 16 whole numbers"),
    "flags": (16, [True] * 16, "labels must be 16 whole numbers"),
    "a ragged list": (16, [[1], [1, 2]], "labels must be 16 whole numbers"),
    "a label too large": (16, [10] * 16, "labels must be 16 whole numbers from 0 to 9, not [10, 10"),
    "a label below 0": (16, [-1] * 16, "labels must be 16 whole numbers"),
}


@pytest.mark.parametrize("setting", ["c0.3-k1", "c0.3-k1-r4"])
@pytest.mark.parametrize(("images", "labels", "words"), MISCOUNTED.values(), ids=MISCOUNTED)
def test_images_and_labels_that_are_not_those_of_the_routing_are_refused(
    images: Any, labels: Any, words: str, setting: str, engine: Engine, mnist_images: dict[str, np.ndarray]
) -> None:
    statistics, routing = RoutingStatistics(CLASSES), engine.routing(mnist_images["images"][:16], setting)
    with refusal(RoutingError, words):
        statistics.add(routing, images, labels)
    assert statistics.layers() == {}
    statistics.add(routing, np.int64(16), [1] * 16)  # type: ignore[arg-type]
    statistics.add(routing, 16)
    for layer in statistics.layers().values():
        assert layer.images == 32 and layer.class_images is not None and layer.class_images.tolist() == [0, 16, *[0] * 8]


def test_routings_are_compared_and_hashed_as_what_they_are(engine: Engine, mnist_images: dict[str, np.ndarray]) -> None:
    one, other = (engine.routing(mnist_images["images"][:2])["encoderblock_1"] for _ in range(2))
    assert one != other and len({one, other, one}) == 2


# Neighbours


def test_neighbours_never_move_an_image_that_is_routed_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)
    with Engine.load(kept_bundle("fp32")) as engine:
        found = interference(engine, engine.batch(images), "c0.3-k1", sets=200)
    assert (found.images, found.sets, found.images_per_call) == (32, 200, 16)
    assert (found.max_difference, found.mean_difference) == (0, 0)
    assert (found.top1_changed, found.images_changed) == (0, 0)


@pytest.mark.parametrize("setting", ["c0.1-k1", "c1.05-k2-vanilla"])
def test_neighbours_move_images_that_share_slots(setting: str, grouped: Engine, mnist_images: dict[str, np.ndarray]) -> None:
    images, random = mnist_images["images"][:48], np.random.default_rng(7)
    found = interference(grouped, grouped.batch(images), setting, sets=5, seed=7)
    first = grouped(images, setting)
    differences, changed = [], []
    for _ in range(5):
        order = random.permutation(48)
        for call in np.split(order, 3):
            answers = grouped(images[call], setting)
            for image, answer in zip(call, answers, strict=True):
                differences.append(np.abs(answer.astype(float) - first[image]))
                changed.append((int(image), bool(answer.argmax() != first[image].argmax())))
    assert found.max_difference == np.max(differences) > 0
    assert found.mean_difference == pytest.approx(np.mean(differences))
    assert found.top1_changed == np.mean([moved for _, moved in changed])
    assert found.images_changed == len({image for image, moved in changed if moved}) / 48
    assert (setting == "c0.1-k1") == (found.images_changed > 0.1)


# Agreement


def test_agreement_is_the_count_over_all_images(
    grouped: Engine, mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    export_bundle(
        mnist_checkpoint, tmp_path / "low.vmoe", capacity=[0.3], k=[2], group="16", precision="int8", validate=False
    )
    images = mnist_images["images"][:160]
    count = AgreementCount(has_top1=True)
    with Engine.load(tmp_path / "low.vmoe") as low:
        for batch in (images[:64], images[64:]):
            ours, theirs = (engine.logits_and_routing(batch, "c0.3-k2") for engine in (grouped, low))
            count.add(ours[0], theirs[0], ours[1], theirs[1])
        (ours, our_routes), (theirs, their_routes) = (e.logits_and_routing(images, "c0.3-k2") for e in (grouped, low))
    found = count.result()
    assert (found.images, found.same_top1) == (160, np.mean(ours.argmax(1) == theirs.argmax(1)))
    difference = np.abs(ours.astype(float) - theirs)
    assert found.max_difference == difference.max() > 0
    assert found.mean_difference == pytest.approx(difference.mean())
    assert list(found.same_experts) == list(our_routes)
    for name, share in found.same_experts.items():
        keepers = []
        for routing in (our_routes[name], their_routes[name]):
            kept: list[list[int]] = [[] for _ in range(160 * TOKENS)]
            for token, expert, _, is_kept in pairs_of(routing):
                if is_kept:
                    kept[token].append(expert)
            keepers.append([sorted(experts) for experts in kept])
        assert share == np.mean([a == b for a, b in zip(*keepers, strict=True)])
        assert 0.5 < share < 1
