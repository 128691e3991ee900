"""How far a model in another precision is from the same model in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vmoe_export.checkpoint import Checkpoint
from vmoe_export.errors import ExportError
from vmoe_export.model.torch_model import Vmoe
from vmoe_export.validation.reference import ROUNDED_IMAGES, Array, Reference, run_torch
from vmoe_measure.comparison import Run, differences
from vmoe_measure.image_source import ImageSource
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.errors import ImageError
from vmoe_runtime.profiles import Profile

_BATCH = 32  # images at a time; the checkpoint is read once for each batch


@dataclass(frozen=True)
class PrecisionDistance:
    """The model as stored against the model with the checkpoint's float32 weights, both in torch, at one profile.

    Attributes:
        profile: name of the profile, or None for a dense ViT.
        max_difference: largest absolute difference of logits (or features), over all images.
        relative_difference: how far the logits of a typical image are off, as a share of their size: the median of
            `relative_differences`.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
        same_top1: share of the images whose largest logit is that of the same class; None where the images are random, or
            the model gives no logits.
        top1, top1_float32: share of the images that each model puts into their class; None where that is not known.
    """

    profile: str | None
    max_difference: float
    relative_difference: float
    agreement: dict[str, float]
    images: int
    same_top1: float | None = None
    top1: float | None = None
    top1_float32: float | None = None


def distance_from_float32(
    reference: Reference,
    checkpoint: Checkpoint,
    profiles: Sequence[Profile],
    batch_multiple: int,
    spec: InputSpec,
    source: ImageSource | None = None,
) -> list[PrecisionDistance]:
    """Compares the model as stored with the same model in float32 at each profile.

    Args:
        reference: the answers of the torch model with its stored weights.
        checkpoint: the checkpoint that it comes from.
        profiles: the profiles to compare at; none for a dense ViT.
        batch_multiple: images that fill whole routing groups.
        spec: what the graph takes, and how pictures become it.
        source: the images to compare on, as far as they fill whole routing groups. Default: a few of the reference's.

    Raises:
        ImageError: there are too few images, or they don't fit the model.
    """
    model = reference.model
    exact = _Float32Model(model, checkpoint)
    classifies = source is not None and model.output == "logits"
    tallies = [_Tally(profile, classifies) for profile in profiles or (None,)]
    if source is None:
        images = reference.first_images(ROUNDED_IMAGES)
        for tally in tallies:
            tally.add(run_torch(exact, images, tally.profile), reference.run(tally.profile, len(images)), None)
    else:
        for images, labels in source.whole_batches(_batch_size(source, batch_multiple), spec):
            for tally in tallies:
                tally.add(run_torch(exact, images, tally.profile), run_torch(model, images, tally.profile), labels)
    moe = model.config.moe
    layers = [f"encoderblock_{i}" for i in (moe.layers if moe and "kept" in model.layer_outputs else ())]
    return [tally.distance(layers) for tally in tallies]


def check_distance(distances: Iterable[PrecisionDistance], precision: str, limit: float) -> None:
    """Refuses a model that is too far from float32.

    Args:
        distances: from `distance_from_float32`.
        precision: of the model.
        limit: largest relative difference.

    Raises:
        ExportError: a profile is above the limit.
    """
    for distance in distances:
        if not distance.relative_difference <= limit:
            where = f" at {distance.profile}" if distance.profile else ""
            raise ExportError(
                f"validation failed: in {precision} the logits of a typical image are {distance.relative_difference:.1%} "
                f"off those in float32{where}, more than --max-distance {limit:g}; choose another --precision; "
                "no bundle was written"
            )


@dataclass
class _Tally:
    """What is counted at one profile while batches go by."""

    profile: Profile | None
    classifies: bool
    relative: list[Array] = field(default_factory=list)
    agreement: list[list[Array]] = field(default_factory=list)  # by batch and layer, f64[images]
    max_difference: float = 0.0
    same: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])  # as stored, in float32
    labelled: bool = False

    def add(self, expected: Run, found: Run, labels: Array | None) -> None:
        apart = differences(expected, found)
        self.relative.append(apart.relative)
        self.agreement.append([layer.mean(axis=1) for layer in apart.pairs])
        self.max_difference = max(self.max_difference, float(apart.largest.max()))
        if not self.classifies:
            return
        answers = [run.output.argmax(axis=1) for run in (found, expected)]
        self.same += int((answers[0] == answers[1]).sum())
        if labels is not None:
            self.labelled = True
            for model, answer in enumerate(answers):
                self.right[model] += int((answer == labels).sum())

    def distance(self, layers: list[str]) -> PrecisionDistance:
        relative = np.concatenate(self.relative)
        count = len(relative)
        by_layer = zip(*self.agreement, strict=True)
        return PrecisionDistance(
            self.profile.name if self.profile else None,
            self.max_difference,
            float(np.median(relative)),
            {layer: float(np.concatenate(same).mean()) for layer, same in zip(layers, by_layer, strict=True)},
            count,
            self.same / count if self.classifies else None,
            *(right / count if self.labelled else None for right in self.right),
        )


def _batch_size(source: ImageSource, batch_multiple: int) -> int:
    groups = len(source) // batch_multiple
    if not groups:
        raise ImageError(f"--images has {len(source)} images, and the model routes in groups of {batch_multiple}")
    return batch_multiple * min(groups, max(1, _BATCH // batch_multiple))


class _Float32Model(Vmoe):
    """A model with the float32 weights of its checkpoint.

    What the stored model has in float32 is shared with it. The rest is read when its layer runs, so that only one kernel is
    in memory.
    """

    def __init__(self, stored: Vmoe, checkpoint: Checkpoint) -> None:
        super().__init__(stored.config, stored.group_tokens, output=stored.output, uint8_input=stored.uint8_input)
        shared = {name: tensor for name, tensor in stored.state_dict().items() if tensor.dtype == torch.float32}
        self.load_state_dict({name: shared.get(name, parameter) for name, parameter in self.named_parameters()}, assign=True)
        self._checkpoint = checkpoint

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        parameter = super().get_parameter(target)
        if not parameter.is_meta:
            return parameter
        array = np.ascontiguousarray(self._checkpoint[target.replace(".", "/")], np.float32)
        return torch.nn.Parameter(torch.from_numpy(array).view(parameter.shape), requires_grad=False)
