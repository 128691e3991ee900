"""Quantizes weights to int8, each column with a scale of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_LARGEST_INT8 = 127  # -128 stays unused, so that the range is symmetric


def quantize_columns(weights: Array) -> tuple[Array, Array]:
    """Weights float32[..., inputs, outputs] as int8, and the float32 scale of each output.

    The scale is the largest absolute weight of the column / 127, and 1 for a column of zeros; weights are rounded to
    nearest, ties to even.
    """
    quantized = np.empty(weights.shape, np.int8)
    scales = np.empty((*weights.shape[:-2], weights.shape[-1]), np.float32)
    # One matrix at a time: experts are many, and each step makes an array of its size.
    for matrix in np.ndindex(weights.shape[:-2]):
        scale = np.abs(weights[matrix]).max(axis=0) / np.float32(_LARGEST_INT8)
        scale[scale == 0] = 1
        steps = weights[matrix] / scale
        np.rint(steps, out=steps)
        np.clip(steps, -_LARGEST_INT8, _LARGEST_INT8, out=steps)
        quantized[matrix], scales[matrix] = steps, scale
    return quantized, scales
