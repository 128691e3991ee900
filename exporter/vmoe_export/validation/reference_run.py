"""Runs the reference from images to output, and shows what each part takes and gives."""

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
"""How often a sum may be rounded, each time by 1/12 of a squared step: kernels add up to 16 chunks of an MLP to it."""
_FEW_VALUES = 16
"""Squared steps that single values may be off besides, which matter where there are few values."""
_LARGE_STREAM = 64
"""Times the size of what a part adds, above which it is judged on a smaller stream."""
_LEAST_VALUE = math.sqrt(LAYER_NORM_EPSILON)
_NEAR = 1e-3
"""Of two likenesses, which rounding may put the other way round."""
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Step:
    """What a part of the reference takes and gives at one profile, before it merges; of a MoE layer its outputs."""

    before: Stream
    whole: Stream
    routes: Routes = ()

    def distance(self, found: Stream, same: Array | None = None) -> float:
        """How far another result is off, as a share of the size of what the part adds; over the tokens `same`.

        If tokens were merged, the reference's are merged in the same way first. What rounding does to sums of the stream's
        size is no difference: a part that adds next to nothing to a large stream is known to some steps of float32 only.
        """
        rows = slice(None) if same is None else same
        before, whole = self.before.x, self.whole.x
        before = np.repeat(before, len(whole) // len(before), axis=0)  # a member of an ensemble has its image's
        before = before[:, : whole.shape[1]]  # of the last block the class token
        added = whole - before if before.shape == whole.shape else whole
        expected = self.as_merged(found).x
        steps = np.spacing(np.abs(whole[rows]))
        size = np.linalg.norm(added[rows]) + np.linalg.norm(steps)
        squares = float(np.linalg.norm((found.x - expected)[rows])) ** 2
        rounded = float(np.linalg.norm(steps)) ** 2 * (_ROUNDINGS / 12 + _FEW_VALUES / max(steps.size, 1))
        return math.sqrt(max(squares - rounded, 0.0)) / max(float(size), _TINY)

    def merged_alike(self, found: Stream, config: ModelConfig) -> float:
        """Share of the tokens that the other has merged which the reference merges, too, or nearly."""
        keys = self.whole.keys
        if keys is None or found.token is None:
            return 1.0
        return ops.share_of_likest(keys, self.whole.places(found.token), config.num_heads, config.prefix_tokens, _NEAR)

    def as_merged(self, found: Stream) -> Stream:
        """The reference's result as its tokens go where the other's went."""
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
    """What the reference gives for images, whole routing groups, at each profile.

    Args:
        reference: the model.
        images: as it takes them.
        profiles: those to run at; none for a dense ViT and a Soft MoE, which have one answer. All merge alike.
        after: called with the name of each part that has run, and its step at each profile.
    """
    model = reference.model
    settings = profiles or (None,)
    layers: list[list[Array]] = [[] for _ in settings]
    stream, copies = Stream(images), 1
    for part in model.parts:
        if part.endswith("/Moe") and copies < len(settings):  # what comes before is the same for every profile
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
    """The steps that a part is judged by, one for each profile.

    Where only the experts of class tokens are computed, they are of images whose tokens were turned, so that every expert
    that has a token has one at the front. If a part adds next to nothing, they are on smaller streams: the sum of a large
    stream and a small addition is rounded by more than a fault of the part may be, and layer norm makes the same of a
    smaller stream, down to values whose square is its epsilon.
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
    """An image for each expert that has a token, with that at its front; as many as fill groups of so many images."""
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
    """The stream in so many equal parts, by its images."""
    rows = len(stream.x) // parts
    return [stream.of_images(slice(i * rows, (i + 1) * rows)) for i in range(parts)]


def merging_alike(profiles: Sequence[Profile]) -> list[list[Profile]]:
    """The profiles in lists of those that merge as many tokens, which can run side by side; one empty list for none."""
    found: dict[int | None, list[Profile]] = {}
    for profile in profiles:
        found.setdefault(profile.merge, []).append(profile)
    return list(found.values()) or [[]]


def validation_images(model: ExportedModel, batch_multiple: int, least: int) -> Array:
    """The smallest batch of smooth random images, as the model takes them: at least so many, in whole routing groups."""
    count = -(-least // batch_multiple) * batch_multiple
    images = smooth_images(count, *model.config.image_size, model.config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)
