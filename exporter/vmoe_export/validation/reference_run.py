"""Runs the reference from images to output, and shows what each part takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.reference_model import ReferenceModel, Routes
from vmoe_measure.comparison import Run, smooth_images
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]

_EPSILON = np.finfo(np.float32).eps
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Step:
    """What one part of the reference takes and gives at one profile: x and y, and of a MoE layer its outputs."""

    x: Array
    y: Array
    routes: Routes = ()

    def distance(self, found: Array, same: Array | None = None) -> float:
        """How far another y is off, as a share of the size of what the part adds to x; over the tokens `same`."""
        rows = slice(None) if same is None else same
        x = np.repeat(self.x, len(self.y) // len(self.x), axis=0)  # a member of an ensemble has its image's
        x = x[:, : self.y.shape[1]]  # of the last block the class token
        added = self.y - x if x.shape == self.y.shape else self.y
        size = np.linalg.norm(added[rows]) + _EPSILON * np.linalg.norm(self.y[rows])
        return float(np.linalg.norm((found - self.y)[rows]) / max(size, _TINY))


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
        profiles: those to run at; none for a dense ViT and a Soft MoE, which have one answer.
        after: called with the name of each part that has run, and its step at each profile.
    """
    model = reference.model
    settings = [(len(images), profile) for profile in profiles or (None,)]
    layers: list[list[Array]] = [[] for _ in settings]
    x, copies = images, 1
    for part in model.parts:
        if part.endswith("/Moe") and copies < len(settings):  # what comes before is the same for every profile
            copies = len(settings)
            x = np.concatenate([x] * copies)
        y, routes = reference.run(part, x, settings)
        steps = [Step(*each) for each in zip(np.split(x, copies), np.split(y, copies), strict=True)]
        if routes:
            steps = [Step(step.x, step.y, route) for step, route in zip(steps, routes, strict=True)]
            for found, route in zip(layers, routes, strict=True):
                found.extend(route)
        after(part, steps * (len(settings) // copies))
        x = y
    outputs = np.split(x, copies) * (len(settings) // copies)
    return [
        Run.of(model.layer_outputs, [output, *routes], profile)
        for output, routes, (_, profile) in zip(outputs, layers, settings, strict=True)
    ]


def validation_images(model: ExportedModel, batch_multiple: int, least: int) -> Array:
    """The smallest batch of smooth random images, as the model takes them: at least so many, in whole routing groups."""
    count = -(-least // batch_multiple) * batch_multiple
    images = smooth_images(count, *model.config.image_size, model.config.channels)
    return images if model.uint8_input else (images / 127.5 - 1).astype(np.float32)
