"""How far a model in another precision is from the same model in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from vmoe_export.checkpoint import Checkpoint
from vmoe_export.model import Vmoe
from vmoe_export.validation import relative_difference, run_torch, validation_images
from vmoe_runtime.comparison import pairs_alike
from vmoe_runtime.profiles import Profile


@dataclass(frozen=True)
class PrecisionDistance:
    """The model as stored against the model with the checkpoint's float32 weights, both in torch, at one profile.

    Attributes:
        profile: name of the profile, or None for a dense ViT.
        max_difference: largest absolute difference of logits (or features), over all images.
        relative_difference: how far the logits of a typical image are off, as a share of their size.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
    """

    profile: str | None
    max_difference: float
    relative_difference: float
    agreement: dict[str, float]
    images: int


def distance_from_float32(
    model: Vmoe, checkpoint: Checkpoint, profiles: Iterable[Profile], batch_multiple: int
) -> list[PrecisionDistance]:
    """Runs both models at each profile on the images of validation.

    Args:
        model: the torch model with its stored weights.
        checkpoint: the checkpoint that it comes from.
        profiles: the profiles to compare at; none for a dense ViT.
        batch_multiple: images that fill whole routing groups.
    """
    images = validation_images(model, batch_multiple)
    exact = _Float32Model(model, checkpoint)
    layers = [f"encoderblock_{i}" for i in (model.config.moe.layers if model.config.moe else ())]
    distances = []
    for profile in list(profiles) or [None]:
        expected, found = run_torch(exact, images, profile), run_torch(model, images, profile)
        alike = pairs_alike(expected, found, profile) if profile else []
        distances.append(
            PrecisionDistance(
                profile.name if profile else None,
                float(np.abs(expected[0] - found[0]).max()),
                relative_difference(expected[0], found[0]),
                {layer: float(np.mean(same)) for layer, same in zip(layers, alike, strict=True)},
                len(images),
            )
        )
    return distances


class _Float32Model(Vmoe):
    """A model with the float32 weights of its checkpoint.

    What the stored model has in float32 is shared with it. The rest is read when its layer runs, so that only one kernel is
    in memory.
    """

    def __init__(self, stored: Vmoe, checkpoint: Checkpoint) -> None:
        super().__init__(stored.config, stored.group_tokens, features=stored.features, uint8_input=stored.uint8_input)
        shared = {name: tensor for name, tensor in stored.state_dict().items() if tensor.dtype == torch.float32}
        self.load_state_dict({name: shared.get(name, parameter) for name, parameter in self.named_parameters()}, assign=True)
        self._checkpoint = checkpoint

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        parameter = super().get_parameter(target)
        if not parameter.is_meta:
            return parameter
        array = np.ascontiguousarray(self._checkpoint[target.replace(".", "/")], np.float32)
        return torch.nn.Parameter(torch.from_numpy(array).view(parameter.shape), requires_grad=False)
