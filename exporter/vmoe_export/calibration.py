"""Round int4 expert weights so that the experts' outputs on a user's images change as little as possible.

The method is GPTQ (arXiv 2210.17323). Plain rounding moves each weight to the nearest int4 value. In contrast, GPTQ rounds a
column's weights one by one, from first to last. After each step, it adjusts the column's remaining weights to compensate for
the rounding error, as far as the inputs of these weights are correlated. The storage format and the scales are the same as
with plain rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.bundle.weights_file import Span
from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.precision_distance import user_batches
from vmoe_export.validation.reference_model import Array, ReferenceModel
from vmoe_export.validation.reference_run import run_reference
from vmoe_export.validation.reference_weights import Weights, official_weights
from vmoe_export.weight_types.int4 import INT4, INT4_GROUP, LARGEST_INT4, pack_int4, quantize_groups, spread_groups
from vmoe_measure.image_source import ImageSource

_IMAGES = 128  # maximum number of images, or the images of one routing group if they are more
_DAMPING = 0.01  # added to the Hessian's diagonal, as a fraction of the diagonal's mean


def calibrate(
    path: Path,
    spans: Mapping[str, Span],
    plan: ExportPlan,
    source: ImageSource,
    advance: Callable[[float], None] = lambda parts: None,
) -> None:
    """Replace the int4 weights in a file by int4 weights that suit the first images of `source`.

    Args:
        path: a file written by `write_weights`, which is changed in place.
        spans: the position of each tensor in the file.
        plan: the plan of the export.
        source: the user's images.
        advance: function called with 1 each time a part of the model has been computed.

    Raises:
        ImageError: the images don't fit the model, or are too few to fill a routing group.
    """
    images, _ = next(iter(user_batches(source, plan.grouping.batch_multiple, plan.input_spec, 1, _IMAGES)))
    profiles = sorted(plan.profiles, key=plan.flops)[-1:]  # the profile whose experts process the most tokens
    weights = official_weights(plan.checkpoint, plan.model, plan.weight_shapes)
    run_reference(_Calibration(plan.exported, weights, path, spans), images, profiles, lambda part, steps: advance(1))


def round_for_inputs(weights: Array, inputs: Array) -> Array:
    """Quantize a weight matrix to int4, with rounding that suits the inputs by which the matrix is multiplied.

    The scales are the same as with plain rounding.

    Args:
        weights: f32[depth, outputs].
        inputs: f32[rows, depth].

    Returns:
        int8[depth, outputs], which holds int4 values.
    """
    depth = len(weights)
    scales = spread_groups(quantize_groups(weights)[1], depth)
    hessian = inputs.T.astype(np.float64) @ inputs
    hessian[np.diag_indices(depth)] += _DAMPING * np.trace(hessian) / depth or 1  # add 1 if the expert got no rows
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left, quantized = weights.astype(np.float64), np.empty(weights.shape, np.int8)
    for start in range(0, depth, INT4_GROUP):
        stop = min(start + INT4_GROUP, depth)
        errors = np.empty((stop - start, weights.shape[1]))
        for i in range(start, stop):
            quantized[i] = np.clip(np.rint(left[i] / scales[i]), -LARGEST_INT4, LARGEST_INT4)
            errors[i - start] = (left[i] - quantized[i] * scales[i]) / factor[i, i]
            left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return quantized


class _Calibration(ReferenceModel):
    """A float32 reference model that rounds each expert kernel to int4 just before use, to suit the kernel's inputs."""

    def __init__(self, model: ExportedModel, weights: Weights, path: Path, spans: Mapping[str, Span]) -> None:
        super().__init__(model, weights)
        self._path, self._spans = path, spans

    def _mlp_hidden(self, path: str, x: Array, expert: Any = ...) -> Array:
        self._round(f"{path}/Dense_0/kernel", x, expert)
        return super()._mlp_hidden(path, x, expert)

    def _mlp_output(self, path: str, hidden: Array, expert: Any = ...) -> Array:
        self._round(f"{path}/Dense_1/kernel", hidden, expert)
        return super()._mlp_output(path, hidden, expert)

    def _round(self, kernel: str, rows: Array, expert: Any) -> None:
        span = self._spans[kernel]
        if expert is ... or span.dtype != INT4.stored:
            return
        packed = pack_int4(round_for_inputs(self._tensor(kernel)[expert], rows))
        with self._path.open("r+b") as file:
            file.seek(span.offset + expert * packed.nbytes)
            file.write(packed.data.cast("B"))
