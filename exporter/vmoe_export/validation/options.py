"""The options of validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vmoe_export.errors import OptionError
from vmoe_export.export_plan import ExportPlan
from vmoe_measure.image_source import ImageSource, open_images


@dataclass(frozen=True)
class ValidationOptions:
    """The options for checking a written bundle.

    Attributes:
        atol: largest allowed absolute difference between a part of a graph and the reference. None allows the
            difference that rounding explains.
        max_distance: largest allowed relative difference between a part of the model and the same part in float32. None
            stands for the precision's own limit.
        images: an npz file or a folder of pictures, on which to measure the difference from float32. None stands for a
            few random images.

    Raises:
        OptionError: a limit is not a positive number.
    """

    atol: float | None = None
    max_distance: float | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        for name in ("atol", "max_distance"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > 0):
                raise OptionError(f"{name} must be a positive number, not {value!r:.40}")

    def checked(self, precision: str) -> ValidationOptions:
        """Return these options after checking that they fit an export in this precision.

        Raises:
            OptionError: there are images, but the export is in float32, so there is nothing to measure.
        """
        if self.images is not None and precision in ("fp32", "fp16"):
            raise OptionError("--images measures the distance from float32, and this export is in float32; omit it")
        return self

    def open_images(self, plan: ExportPlan) -> ImageSource | None:
        """Open the user's images, or return None if there are none.

        Raises:
            OptionError: there are images, but the export is in float32, so there is nothing to measure.
            ImageError: the images can't be read.
        """
        images = self.checked(plan.options.precision).images
        if images is None:
            return None
        names = plan.options.class_names
        classes = plan.model.num_classes if plan.output == "logits" else None
        return open_images(images, None if names is None else tuple(names), classes)
