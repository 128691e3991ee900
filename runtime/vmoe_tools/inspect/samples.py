"""Sample images and the routing of their patches at several capacities, for the pictures."""

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
"""Images that pictures are drawn of at most."""

_RATIOS = (0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Frame:
    """The samples at one setting.

    Attributes:
        name: of the setting; None where there is nothing to set.
        effective_ratio: its capacity ratio after rounding to whole slots; None as above.
        answers: i64[n], the class of the largest logit of each sample; None where the bundle returns no logits.
        patches: of each MoE layer i64[2,n,rows,columns]: the expert of each patch, -1 where it was dropped, and which token
            it is in.
    """

    name: str | None
    effective_ratio: float | None
    answers: Array | None
    patches: Mapping[str, Array]


@dataclass(frozen=True)
class Samples:
    """The n images and their frames.

    Attributes:
        pixels: f32[n,H,W,C], from 0 to 1; C is 1 or 3.
        labels: i64[n]; None where they are not known.
        patch_size: pixels of a patch: height and width.
        num_experts: E of each MoE layer.
        own: the frame at the inspected setting.
        frames: the same samples at several capacity ratios, rising, the own among them; only that where the model has no
            capacity, or a graph that is fixed to one.
    """

    pixels: Array
    labels: Array | None
    patch_size: tuple[int, int]
    num_experts: int
    own: Frame
    frames: tuple[Frame, ...]


def take_samples(engine: Engine, source: ImageSource, profile: Profile | None) -> Samples:
    """Runs the first images at several capacity ratios, together with the rest of their groups.

    Args:
        engine: an engine of a bundle with MoE layers.
        source: the images, at least one group of them.
        profile: the inspected setting.

    Raises:
        RoutingError: the bundle's manifest doesn't say where patches are.
        VmoeError: the images don't fit, or the backend failed.
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
    """f32[n,H,W,1 or 3] from 0 to 1 of a batch uint8 or float32 [n,H,W,C]; other channels are averaged."""
    pixels: Array = batch.astype(np.float32)
    pixels = pixels / 255 if batch.dtype == np.uint8 else (pixels + 1) / 2
    if pixels.shape[3] not in (1, 3):
        pixels = pixels.mean(axis=3, keepdims=True)
    return np.nan_to_num(pixels).clip(0, 1)


def _settings(engine: Engine, profile: Profile | None) -> Sequence[Profile | None]:
    """The inspected setting at several ratios, each number of slots once."""
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
