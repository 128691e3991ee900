"""How close the outputs of several bundles of one model come to those of the most exact one, and which bundle to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import click
import numpy as np

from vmoe_runtime.precisions import EXACTNESS
from vmoe_runtime.routing import Array, Routing
from vmoe_tools.bench.points import Point
from vmoe_tools.bench.result import ROUNDING, PointResult, equally_fast
from vmoe_tools.terminal import share_text

_MOST_NEIGHBOURS = 4096  # images among which neighbours are looked for


@dataclass(frozen=True)
class Closeness:
    """How close outputs come to those of the most exact bundle on the same images.

    Attributes:
        agreement: share of the images whose largest logit is the same; None for features and members.
        cosine_mean, cosine_p5, cosine_least: cosine similarity of the outputs: mean, 5 % quantile, least.
        same_neighbour: share of the images whose most similar other image, by the cosine of outputs, is the same.
    """

    agreement: float | None
    cosine_mean: float
    cosine_p5: float
    cosine_least: float
    same_neighbour: float

    @classmethod
    def of(cls, outputs: Array, exact: Array, *, have_classes: bool) -> Closeness:
        """The closeness of outputs float32[N, D] to `exact`, float32[N, D], in float64."""
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
    """Keeps the outputs of a batch; behind its first argument, an `Observe`."""
    kept.append(outputs.reshape(len(outputs), -1))


def with_closeness(
    results: Sequence[PointResult], points: Sequence[Point], outputs: Sequence[list[Array]]
) -> list[PointResult]:
    """The results, each with its closeness to the most exact bundle's, at the same profile if that was measured.

    Args:
        results: complete; those of other models stay as they are.
        points: of the results.
        outputs: of the points, batch by batch; see `keep_outputs`.
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
        count = min(len(own), len(theirs))  # whole batches of another size may leave some out
        closeness = Closeness.of(own[:count], theirs[:count], have_classes=have_classes)
        found.append(replace(result, **asdict(closeness)))
    return found


def most_exact(results: Sequence[PointResult]) -> int:
    """The index of the first result of the most exact precision, but of no other model."""
    own = (index for index, result in enumerate(results) if not result.compared)
    return min(own, key=lambda index: EXACTNESS.index(results[index].precision))


def recommend_bundle(results: Sequence[PointResult], sizes: Mapping[str, int], least: float) -> tuple[int, str]:
    """The fastest point that agrees often enough, and a sentence that says why.

    Among points that timing can't tell from the fastest one, it is the one that agrees most.

    Args:
        results: complete, with their closeness; without classes, images agree if their nearest neighbour is the same.
        sizes: bytes of each bundle by its name.
        least: the share of the images that must agree, 0 to 1.
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
    """i64[N]: the index of the most similar other row of each of the first rows."""
    rows = normalized[:_MOST_NEIGHBOURS]
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: Array = similarity.argmax(axis=1)
    return nearest
