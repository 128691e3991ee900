"""Sample images, and the routing of their patches at several capacities. The pictures are drawn from this data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Engine, RoutingError
from vmoe_runtime.images import to_batch
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Array
from vmoe_tools.inspect.patches import experts_and_tokens

MOST_SAMPLES = 6
"""Largest number of images to draw."""

_RATIOS = (0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Frame:
    """The results of the samples at one setting.

    Attributes:
        name: name of the setting; None if the model has no settings.
        effective_ratio: capacity ratio of the setting after rounding to whole slots; None if the model has no settings.
        answers: i64[n], for each sample, the class with the largest logit; None if the bundle returns no logits.
        patches: for each MoE layer, i64[2,n,rows,columns]: the expert of each patch (-1 if it was dropped), and the index
            of the token that contains the patch.
    """

    name: str | None
    effective_ratio: float | None
    answers: Array | None
    patches: Mapping[str, Array]


@dataclass(frozen=True)
class Samples:
    """The n sample images, and their results at several settings.

    Attributes:
        pixels: f32[n,H,W,C], from 0 to 1; C is 1 or 3.
        labels: i64[n], the class of each sample; None if there are no labels.
        patch_size: height and width of a patch in pixels.
        num_experts: number of experts in each MoE layer.
        own: the results at the inspected setting.
        frames: the results at several ascending capacity ratios, including `own`. If the model has no capacity, or if its
            graph is fixed to one setting, `own` is the only frame.
    """

    pixels: Array
    labels: Array | None
    patch_size: tuple[int, int]
    num_experts: int
    own: Frame
    frames: tuple[Frame, ...]


def take_samples(engine: Engine, source: ImageSource, profile: Profile | None) -> Samples:
    """Run the first images at several capacity ratios, together with the other images of their routing groups.

    Args:
        engine: an engine of a bundle with MoE layers.
        source: the images, at least one routing group.
        profile: the inspected setting.

    Raises:
        RoutingError: the bundle's manifest doesn't say which tokens are patches.
        VmoeError: the images don't fit the model, or the backend failed.
    """
    manifest = engine.manifest
    assert manifest.moe_layers
    multiple = manifest.batch_multiple
    size = min(-(-MOST_SAMPLES // multiple) * multiple, len(source) // multiple * multiple)
    count = min(size, MOST_SAMPLES)
    batch = to_batch(source.images[:size], manifest.input)
    own = _frame(engine, batch, count, profile)
    frames = [own if other is profile else _frame(engine, batch, count, other) for other in _settings(engine, profile)]
    height, width = manifest.model["patch_size"]
    labels = None if source.labels is None else source.labels[:count]
    return Samples(shown_pixels(batch[:count]), labels, (height, width), manifest.rules.num_experts, own, tuple(frames))


def shown_pixels(batch: Array) -> Array:
    """Convert a batch, uint8 or float32 [n,H,W,C], to f32[n,H,W,1 or 3] from 0 to 1.

    If C is neither 1 nor 3, the channels are averaged.
    """
    pixels: Array = batch.astype(np.float32)
    pixels = pixels / 255 if batch.dtype == np.uint8 else (pixels + 1) / 2
    if pixels.shape[3] not in (1, 3):
        pixels = pixels.mean(axis=3, keepdims=True)
    return np.nan_to_num(pixels).clip(0, 1)


def _settings(engine: Engine, profile: Profile | None) -> Sequence[Profile | None]:
    """Return the inspected setting at several capacity ratios.

    If several ratios give the same numbers of slots, only one of them is used.
    """
    rules = engine.manifest.rules
    if profile is None or engine.only_profile is not None:
        return [profile]
    chosen = {profile.slots: profile}
    for ratio in _RATIOS:
        try:
            other = rules.profile(profile, capacity=ratio)
        except RoutingError:  # more slots than tokens
            continue
        chosen.setdefault(other.slots, other)
    return sorted(chosen.values(), key=lambda one: one.slots)


def _frame(engine: Engine, batch: Array, count: int, profile: Profile | None) -> Frame:
    name = None if profile is None else profile.name
    outputs, routing = engine.logits_and_routing(batch, profile)
    answers = outputs[:count].argmax(axis=1) if engine.manifest.output == "logits" else None
    patches = {name: experts_and_tokens(layer)[:, :count] for name, layer in routing.items()}
    return Frame(name, None if profile is None else profile.effective_ratio, answers, patches)
