"""Compares bundles with the most exact one: how close their outputs are, and which bundle to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import click
import numpy as np

from vmoe_runtime.precisions import EXACTNESS
from vmoe_runtime.routing import Array, Routing
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.point_result import ROUNDING, PointResult, equally_fast
from vmoe_tools.terminal import share_text

_MOST_NEIGHBOURS = 4096  # the nearest neighbour is chosen from this many images


@dataclass(frozen=True)
class Closeness:
    """How close a bundle's outputs are to those of the most exact bundle, on the same images.

    Attributes:
        agreement: share of the images for which both bundles predict the same class; None for features and members.
        cosine_mean, cosine_p5, cosine_least: cosine similarity of the two bundles' outputs for an image: mean, 5 % quantile
            and minimum over the images.
        same_neighbour: share of the images whose nearest neighbour is the same for both bundles. The nearest neighbour is
            the other image whose output has the largest cosine similarity.
    """

    agreement: float | None
    cosine_mean: float
    cosine_p5: float
    cosine_least: float
    same_neighbour: float

    @classmethod
    def of(cls, outputs: Array, exact: Array, *, have_classes: bool) -> Closeness:
        """Compare `outputs` with `exact`, both float32[N, D]. The computation is in float64."""
        ours, theirs = _normalized(outputs), _normalized(exact)
        cosines = np.sum(ours * theirs, axis=1)
        return cls(
            float(np.mean(outputs.argmax(axis=1) == exact.argmax(axis=1))) if have_classes else None,
            float(cosines.mean()),
            float(np.quantile(cosines, 0.05)),
            float(cosines.min()),
            float(np.mean(_neighbours(ours) == _neighbours(theirs))),
        )


def keep_outputs(kept: list[Array], outputs: Array, routing: Mapping[str, Routing], labels: Array | None) -> None:
    """Append the outputs of a batch to `kept`. To get an `Observe`, bind `kept` with functools.partial."""
    kept.append(outputs.reshape(len(outputs), -1))


def with_closeness(
    results: Sequence[PointResult], points: Sequence[Point], outputs: Sequence[list[Array]]
) -> list[PointResult]:
    """Add to each result its closeness to the most exact bundle.

    A result is compared with the most exact bundle's result at the same profile. If the most exact bundle was not measured
    at that profile, its first result is used.

    Args:
        results: complete results. Results of other models are returned unchanged.
        points: the points of the results.
        outputs: the outputs of each point, batch by batch; see `keep_outputs`.
    """
    joined = [np.concatenate(batches) for batches in outputs]
    exact = most_exact(results)
    have_classes = points[exact].engine.manifest.output == "logits"
    rivals = [index for index, result in enumerate(results) if result.bundle == results[exact].bundle]
    found = []
    for result, own in zip(results, joined, strict=True):
        if result.compared:
            found.append(result)
            continue
        same = (index for index in rivals if results[index].profile == result.profile)
        theirs = joined[next(same, exact)]
        count = min(len(own), len(theirs))  # the number of images left out at the end may differ between batch sizes
        closeness = Closeness.of(own[:count], theirs[:count], have_classes=have_classes)
        found.append(replace(result, **asdict(closeness)))
    return found


def most_exact(results: Sequence[PointResult]) -> int:
    """Return the index of the first result with the most exact precision. Ignore results of compared models."""
    own = (index for index, result in enumerate(results) if not result.compared)
    return min(own, key=lambda index: EXACTNESS.index(results[index].precision))


def recommend_bundle(results: Sequence[PointResult], sizes: Mapping[str, int], least: float) -> tuple[int, str]:
    """Choose the fastest point that agrees with the most exact bundle on enough images.

    If several points are equally fast within timing noise, choose the one that agrees on the most images.

    Args:
        results: complete results with their closeness. If the outputs are not logits, two bundles agree on an image if its
            nearest neighbour is the same for both bundles.
        sizes: size of each bundle's weights in bytes, by the bundle's name.
        least: the share of the images on which a point must agree, 0 to 1.

    Returns:
        The index of the point, and a sentence with the reasons.

    Raises:
        click.ClickException: no bundle agrees on enough images.
    """
    exact = results[most_exact(results)]
    by_class = exact.agreement is not None

    def agreement(result: PointResult) -> float:
        return (result.agreement if by_class else result.same_neighbour) or 0.0

    fitting = [index for index, result in enumerate(results) if agreement(result) >= least - ROUNDING]
    if not fitting:
        raise click.ClickException(f"no bundle agrees with {exact.bundle} on {share_text(least)} of the images")
    chosen = max(equally_fast(results, fitting), key=lambda index: agreement(results[index]))
    result = results[chosen]
    what = "have the same class" if by_class else "have the same nearest neighbour"
    size = sizes[result.bundle] / sizes[exact.bundle]
    alike = next((other for other in results if other.bundle == exact.bundle and _how(other) == _how(result)), exact)
    speed = (result.images_per_second or 0.0) / (alike.images_per_second or 1.0)
    why = f"{share_text(agreement(result))} of {result.images:,} images {what} as with {exact.bundle}"
    if result.bundle == exact.bundle:
        why = "no other bundle is faster and agrees with it often enough"
    at = f" at {result.profile}" if len({other.profile for other in results}) > 1 else ""
    return chosen, f"Recommended: {result.bundle}{at}: {why}, at {speed:.2f} x its speed and {size:.2f} x its size."


def _how(result: PointResult) -> tuple[object, ...]:
    return result.profile, result.backend, result.batch_size, result.concurrency


def _normalized(outputs: Array) -> Array:
    wide = outputs.astype(np.float64)
    lengths: Array = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, np.maximum(lengths, np.finfo(np.float64).tiny))


def _neighbours(normalized: Array) -> Array:
    """Return an array i64[N] that contains, for each row, the index of the most similar other row.

    N is at most `_MOST_NEIGHBOURS`; any further rows are ignored.
    """
    rows = normalized[:_MOST_NEIGHBOURS]
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: Array = similarity.argmax(axis=1)
    return nearest
