"""What graphs are compared with: the torch model's answers, computed once for each profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmoe_measure.comparison import Run, smooth_images
from vmoe_runtime.profiles import Profile

if TYPE_CHECKING:
    from vmoe_export.model.torch_model import Vmoe

GRAPH_IMAGES = 2  # for graphs that compute what the torch model does
ROUNDED_IMAGES = 8  # for numbers that are rounded otherwise, where the typical image counts

Array = np.ndarray[Any, np.dtype[Any]]


class Reference:
    """The torch model on smooth random images, run when a profile is first needed.

    Attributes:
        model: with its stored weights.
        images: as the model takes them, whole routing groups.
    """

    def __init__(self, model: Vmoe, batch_multiple: int, least: int) -> None:
        self.model = model
        self.images = validation_images(model, batch_multiple, least)
        self._batch_multiple = batch_multiple
        self._runs: dict[str | None, Run] = {}

    def first_images(self, least: int) -> Array:
        """As few of the first images as fill whole routing groups, and at least so many."""
        return self.images[: _whole_groups(least, self._batch_multiple)]

    def run(self, profile: Profile | None, images: int) -> Run:
        """What the model gives for the first images: each routing group is answered by itself."""
        name = profile.name if profile else None
        if name not in self._runs:
            self._runs[name] = run_torch(self.model, self.images, profile)
        return self._runs[name].of_images(slice(images))


def validation_images(model: Vmoe, batch_multiple: int, least: int = 1) -> Array:
    """The smallest batch of smooth random images, as the model takes them: at least so many, in whole routing groups."""
    config = model.config
    images = smooth_images(_whole_groups(least, batch_multiple), *config.image_size, config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)


def run_torch(model: Vmoe, images: Array, profile: Profile | None) -> Run:
    """What the torch model gives for any images."""
    import torch

    settings = [torch.from_numpy(value) for value in profile.inputs.values()] if profile else []
    with torch.inference_mode():
        values = [tensor.numpy() for tensor in model(torch.from_numpy(images), *settings)]
    return Run.of(model.layer_outputs, values, profile)


def _whole_groups(least: int, batch_multiple: int) -> int:
    return -(-least // batch_multiple) * batch_multiple
