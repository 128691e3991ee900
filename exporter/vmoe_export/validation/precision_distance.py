"""Measure the difference between a model in another precision and the same model in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmoe_export.validation.findings import PrecisionDistance
from vmoe_export.validation.limits import invalid
from vmoe_export.validation.reference_model import Array, ReferenceModel, Stream
from vmoe_export.validation.reference_run import Step, run_reference, split_stream
from vmoe_measure.comparison import Run, differences
from vmoe_measure.image_source import ImageSource
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.errors import ImageError
from vmoe_runtime.profiles import Profile

_BATCH = 32  # number of images times profiles in a batch; the checkpoint is read once per batch


def distance_from_float32(
    stored: ReferenceModel,
    exact: ReferenceModel,
    profiles: Sequence[Profile],
    batches: Iterable[tuple[Array, Array | None]],
    after_part: Callable[[int], object] = lambda images: None,
    *,
    answers: bool,
) -> list[PrecisionDistance]:
    """Compare the stored model with the same model in float32, at each profile.

    Args:
        stored: the model with the weights of the bundle.
        exact: the model with the checkpoint's weights in float32.
        profiles: the profiles at which to compare the models. It is empty if the bundle has no profiles.
        batches: images in whole routing groups, each batch with its labels or None.
        after_part: called after each part of either model, with the number of images.
        answers: whether to compare predicted classes. This comparison is meaningless on random images.

    Raises:
        ImageError: the images don't fit the model.
    """
    model = stored.model
    tallies = [_Tally(profile, answers and model.output == "logits") for profile in profiles or (None,)]

    def tell(part: str, steps: list[Step]) -> None:
        after_part(len(images))

    def round_part(part: str, steps: list[Step]) -> None:
        tell(part, steps)
        distinct = steps[:1] if steps[0] is steps[-1] else steps  # before the first MoE layer, all profiles share one step
        rounded, _ = stored.run(part, Stream.joined([step.before for step in distinct]), profiles or (None,))
        found = split_stream(rounded, len(distinct)) * (len(steps) // len(distinct))
        for tally, step, whole in zip(tallies, steps, found, strict=True):
            worst, difference = tally.worst[0], step.distance(whole)
            if not (difference <= worst or np.isnan(worst)):  # NaN counts as the largest difference
                tally.worst = (difference, part)

    for images, labels in batches:
        expected = run_reference(exact, images, profiles, round_part)
        for tally, of_profile, found in zip(tallies, expected, run_reference(stored, images, profiles, tell), strict=True):
            tally.add(of_profile, found, labels)
    moe = model.config.moe
    layers = [f"encoderblock_{i}" for i in (moe.layers if moe and "kept" in model.layer_outputs else ())]
    return [tally.distance(layers) for tally in tallies]


def check_distance(distances: Iterable[PrecisionDistance], precision: str, limit: float) -> None:
    """Raise ExportError if the distance of any part of the model from float32 exceeds the limit."""
    for distance in distances:
        if not distance.part_difference <= limit:
            where = f" at {distance.profile}" if distance.profile else ""
            raise invalid(
                f"in {precision}, the output of {distance.part}{where} is {distance.part_difference:.1%} off float32, more "
                f"than --max-distance {limit:g}; choose another --precision, or a larger --max-distance"
            )


def user_batches(
    source: ImageSource, batch_multiple: int, spec: InputSpec, profiles: int, most: int = _BATCH
) -> Iterable[tuple[Array, Array | None]]:
    """Yield the user's images in batches of whole routing groups, with their labels.

    If the last images do not fill a group, they are left out.

    Args:
        source: the user's images.
        batch_multiple: images per routing group.
        spec: the model's input.
        profiles: number of profiles that run on each batch.
        most: upper limit for the number of images in a batch times `profiles`. A batch has at least one group, even if
            the group exceeds this limit.

    Raises:
        ImageError: there are too few images for a group.
    """
    groups = len(source) // batch_multiple
    if not groups:
        raise ImageError(f"--images has {len(source)} images, but the model routes in groups of {batch_multiple}")
    size = batch_multiple * min(groups, max(1, most // (batch_multiple * max(1, profiles))))
    for start in range(0, groups * batch_multiple, size):
        count = min(size, groups * batch_multiple - start)
        labels = None if source.labels is None else source.labels[start : start + count]
        yield source.batch(start, count, spec), labels


@dataclass
class _Tally:
    """The results at one profile, over the batches so far."""

    profile: Profile | None
    classifies: bool
    worst: tuple[float, str] = (0.0, "embedding")
    relative: list[Array] = field(default_factory=list)
    agreement: list[list[Array]] = field(default_factory=list)  # for each batch and layer, f64[images]
    max_difference: float = 0.0
    same: list[Array] = field(default_factory=list)  # for each batch, bool[images]: both models predict the same class
    # for each batch, bool[images] for the stored and for the float32 model: whether its class is right
    right: list[list[Array]] = field(default_factory=list)

    def add(self, expected: Run, found: Run, labels: Array | None) -> None:
        apart = differences(expected, found)
        self.relative.append(apart.relative)
        self.agreement.append([layer.mean(axis=1) for layer in apart.pairs])
        self.max_difference = max(self.max_difference, float(apart.largest.max()))
        if not self.classifies:
            return
        stored, exact = (run.output.argmax(axis=1) for run in (found, expected))
        self.same.append(stored == exact)
        if labels is not None:
            self.right.append([stored == labels, exact == labels])

    def distance(self, layers: list[str]) -> PrecisionDistance:
        relative = np.concatenate(self.relative)
        by_layer = zip(*self.agreement, strict=True)
        return PrecisionDistance(
            self.profile.name if self.profile else None,
            self.worst[1],
            self.worst[0],
            self.max_difference,
            float(np.median(relative)),
            {layer: float(np.concatenate(same).mean()) for layer, same in zip(layers, by_layer, strict=True)},
            len(relative),
            float(np.concatenate(self.same).mean()) if self.same else None,
            *(float(np.concatenate(right).mean()) for right in zip(*self.right, strict=True)),
        )
