"""How far a model whose expert weights are bfloat16 is from the same model in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from vmoe_export.checkpoint import Checkpoint
from vmoe_export.model import Vmoe
from vmoe_export.validation import run_torch, validation_images
from vmoe_runtime.comparison import pairs_alike
from vmoe_runtime.profiles import Profile


@dataclass(frozen=True)
class PrecisionDistance:
    """The model as stored against the model with the checkpoint's float32 weights, both in torch, at one profile.

    Attributes:
        profile: name of the profile.
        max_difference: largest absolute difference of logits (or features), over all images.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
    """

    profile: str
    max_difference: float
    agreement: dict[str, float]
    images: int


def distance_from_float32(
    model: Vmoe, checkpoint: Checkpoint, profiles: Iterable[Profile], batch_multiple: int
) -> list[PrecisionDistance]:
    """Runs both models at each profile on the images of validation.

    Args:
        model: the torch model with its stored weights.
        checkpoint: the checkpoint that it comes from.
        profiles: the profiles to compare at.
        batch_multiple: images that fill whole routing groups.
    """
    assert model.config.moe is not None
    images = validation_images(model, batch_multiple)
    exact = _Float32Experts(model, checkpoint)
    layers = [f"encoderblock_{i}" for i in model.config.moe.layers]
    distances = []
    for profile in profiles:
        expected, found = run_torch(exact, images, profile), run_torch(model, images, profile)
        alike = pairs_alike(expected, found, profile)
        distances.append(
            PrecisionDistance(
                profile.name,
                float(np.abs(expected[0] - found[0]).max()),
                {layer: float(np.mean(same)) for layer, same in zip(layers, alike, strict=True)},
                len(images),
            )
        )
    return distances


class _Float32Experts(Vmoe):
    """A model with the expert weights of its checkpoint. Each is read when its layer runs, so that only one is in memory."""

    def __init__(self, stored: Vmoe, checkpoint: Checkpoint) -> None:
        super().__init__(stored.config, stored.group_tokens, features=stored.features, uint8_input=stored.uint8_input)
        self.load_state_dict(stored.state_dict(), assign=True)
        self._checkpoint = checkpoint

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        stored = super().get_parameter(target)
        if stored.dtype == torch.float32:
            return stored
        array = np.ascontiguousarray(self._checkpoint[target.replace(".", "/")], np.float32)
        return torch.nn.Parameter(torch.from_numpy(array), requires_grad=False)
