"""Run the reference from images to output, and record the input and output of each part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.ops.table import LAYER_NORM_EPSILON
from vmoe_export.validation import reference_ops as ops
from vmoe_export.validation.reference_model import Array, ReferenceModel, Routes, Stream
from vmoe_measure.comparison import Run, smooth_images
from vmoe_runtime.profiles import Profile

_ROUNDINGS = 18
"""How many times a sum may be rounded, because kernels add up to 16 chunks of an MLP to it. Each rounding has a mean
squared error of 1/12 of a squared step."""
_FEW_VALUES = 16
"""Additional allowance in squared steps, in total, for errors of single values. It matters if there are few values."""
_LARGE_STREAM = 64
"""If the stream's norm exceeds this multiple of the norm of what a part adds, the part is judged on a smaller stream."""
_LEAST_VALUE = math.sqrt(LAYER_NORM_EPSILON)
_NEAR = 1e-3
"""Rounding may swap the order of two similarities that differ by less than this."""
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Step:
    """The input and output of one part of the reference at one profile.

    Attributes:
        before: the input.
        whole: the output, before any merging.
        routes: the arrays that describe the routing, if the part is a MoE layer. It is empty for any other part.
    """

    before: Stream
    whole: Stream
    routes: Routes = ()

    def distance(self, found: Stream, same: Array | None = None) -> float:
        """Return the relative distance between `found` and the reference's output.

        The distance is divided by the size of what the part adds to the stream. Distance and size are Euclidean norms. If
        `same` is given, only the tokens for which it is true are compared. If `found` has merged tokens, the reference's
        tokens are first merged in the same way.

        The rounding error of adding the part's result to the stream is not counted. This error can be large compared with
        the result, because float32 keeps few digits of a very small number that is added to a large one.
        """
        rows = slice(None) if same is None else same
        before, whole = self.before.x, self.whole.x
        before = np.repeat(before, len(whole) // len(before), axis=0)  # all members start with their image's row
        before = before[:, : whole.shape[1]]  # in the last block, the output may have only the class token
        added = whole - before if before.shape == whole.shape else whole
        expected = self.as_merged(found).x
        steps = np.spacing(np.abs(whole[rows]))
        size = np.linalg.norm(added[rows]) + np.linalg.norm(steps)
        squares = float(np.linalg.norm((found.x - expected)[rows])) ** 2
        rounded = float(np.linalg.norm(steps)) ** 2 * (_ROUNDINGS / 12 + _FEW_VALUES / max(steps.size, 1))
        return math.sqrt(max(squares - rounded, 0.0)) / max(float(size), _TINY)

    def merged_alike(self, found: Stream, config: ModelConfig) -> float:
        """Return the share of the merged tokens in `found` that the reference merges in the same way.

        Near ties are accepted.
        """
        keys = self.whole.keys
        if keys is None or found.token is None:
            return 1.0
        places = self.whole.places(found.token)
        return ops.share_of_best_merges(keys, places, config.num_heads, config.prefix_tokens, _NEAR)

    def as_merged(self, found: Stream) -> Stream:
        """Return the reference's output, with its tokens merged as in `found`."""
        if found.token is None or found.x.shape[1] == self.whole.x.shape[1]:
            return self.whole
        return self.whole.merged(found.token)


StepHook = Callable[[str, list[Step]], object]


def run_reference(
    reference: ReferenceModel,
    images: Array,
    profiles: Sequence[Profile],
    after: StepHook = lambda part, steps: None,
) -> list[Run]:
    """Run the reference on images at each profile.

    Args:
        reference: the model.
        images: images in the form that the model takes, in whole routing groups.
        profiles: the profiles at which to run. All must merge the same number of tokens. The sequence is empty if the
            model has no profiles.
        after: called after each part with the part's name and the step at each profile.

    Returns:
        A run for each profile, or a single run if there are no profiles.
    """
    model = reference.model
    settings = profiles or (None,)
    layers: list[list[Array]] = [[] for _ in settings]
    stream, copies = Stream(images), 1
    for part in model.parts:
        # all parts before the first MoE layer are the same for all profiles
        if part.endswith("/Moe") and copies < len(settings):
            copies = len(settings)
            stream = Stream.joined([stream] * copies)
        whole, routes = reference.run(part, stream, settings)
        each = zip(split_stream(stream, copies), split_stream(whole, copies), routes or [()] * copies, strict=True)
        steps = [Step(*given) for given in each]
        for found, route in zip(layers, routes, strict=False):
            found.extend(route)
        after(part, steps * (len(settings) // copies))
        stream = reference.merge(whole, settings[0])
    outputs = split_stream(stream, copies) * (len(settings) // copies)
    return [
        Run.of(model.layer_outputs, [output.x, *routes], profile)
        for output, routes, profile in zip(outputs, layers, settings, strict=True)
    ]


def judged_steps(reference: ReferenceModel, part: str, steps: list[Step], profiles: Sequence[Profile | None]) -> list[Step]:
    """Return the steps on which a part is judged, one for each profile.

    They are the steps of the run itself, with two exceptions:

    - If a MoE layer computes only class tokens, the step uses other images, one for each expert that keeps any token. In
      this image, the tokens are shifted cyclically so that one of the expert's tokens comes first.
    - If a part adds very little to a large stream, the stream is scaled down. Otherwise, the rounding of the sum could
      hide a fault of the part. A layer norm gives the same result for the smaller stream, provided that the squares of
      the stream's values are above epsilon.
    """
    model = reference.model
    if part in ("embedding", "head") or model.config.ensemble_size > 1:
        return steps
    is_turned = part in model.class_token_parts and part.endswith("/Moe") and model.layer_outputs[0] in ("expert", "kept")
    group, found = model.grouping.tokens // math.gcd(model.grouping.tokens, model.config.num_tokens), []
    for step, profile in zip(steps, profiles, strict=True):
        judged = _rerun(reference, part, _turned(step, group), profile) if is_turned else step
        x, whole = judged.before.x, judged.whole.x
        added, size = np.linalg.norm(whole - x[:, : whole.shape[1]]), np.linalg.norm(x)
        scale = np.float32(2.0 ** math.floor(math.log2(_LEAST_VALUE * math.sqrt(x.size) / max(float(size), _TINY))))
        if added * _LARGE_STREAM < size and scale < 1:
            judged = _rerun(reference, part, replace(judged.before, x=x * scale), profile)
        found.append(judged)
    return found


def _rerun(reference: ReferenceModel, part: str, stream: Stream, profile: Profile | None) -> Step:
    whole, routes = reference.run(part, stream, [profile])
    return Step(stream, whole, *routes)


def _turned(step: Step, group: int) -> Stream:
    """Return a stream with one image for each expert that keeps any token.

    In this image, the tokens are shifted cyclically so that one of the expert's tokens comes first. Images are repeated
    until they fill groups of `group` images.
    """
    stream, (images, tokens, _) = step.before, step.before.x.shape
    if step.routes[0].dtype == bool:  # experts choose
        takes = step.routes[0].reshape(images * tokens, -1)
    else:
        expert, kept = (each.reshape(images * tokens, -1) for each in step.routes[:2])
        takes = np.zeros((images * tokens, expert.max() + 1), bool)
        np.put_along_axis(takes, expert, kept, axis=1)
    places = np.unique(takes.argmax(axis=0))
    places = np.resize(places, -(-len(places) // group) * group)
    rows = [stream.of_images(slice(image, image + 1)) for image in places // tokens]
    shifts = places % tokens
    return Stream.joined(
        [
            replace(
                row,
                x=np.roll(row.x, -shift, axis=1),
                sizes=None if row.sizes is None else np.roll(row.sizes, -shift, axis=1),
            )
            for row, shift in zip(rows, shifts, strict=True)
        ]
    )


def split_stream(stream: Stream, parts: int) -> list[Stream]:
    """Split a stream along its images into equal parts."""
    rows = len(stream.x) // parts
    return [stream.of_images(slice(i * rows, (i + 1) * rows)) for i in range(parts)]


def merging_alike(profiles: Sequence[Profile]) -> list[list[Profile]]:
    """Group the profiles by the number of tokens that they merge. The profiles of each group can run in one batch.

    Returns:
        The groups, or one empty group if there are no profiles.
    """
    found: dict[int | None, list[Profile]] = {}
    for profile in profiles:
        found.setdefault(profile.merge, []).append(profile)
    return list(found.values()) or [[]]


def validation_images(model: ExportedModel, batch_multiple: int, least: int) -> Array:
    """Return smooth random images in the model's input format.

    There are at least `least` images, and they fill whole routing groups.
    """
    count = -(-least // batch_multiple) * batch_multiple
    images = smooth_images(count, *model.config.image_size, model.config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)
