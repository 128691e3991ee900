"""The interface of a weight type. Each type has its own module in this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np

from vmoe_runtime.precisions import StoredType

Array = np.ndarray[Any, np.dtype[Any]]

WeightName = Literal["float", "bf16", "i8", "i4"]
"""Element type of a product's weights, as named in the op table."""


def stored_shape(shape: tuple[int, ...], dtype: StoredType) -> tuple[int, ...]:
    """Return the shape that safetensors records for a tensor with this shape.

    Each element of a U8 tensor holds two int4 values.
    """
    return (*shape[:-1], shape[-1] // 2) if dtype == "U8" else shape


class WeightType(ABC):
    """A type of weights: how they are stored, and how a product with them is computed.

    Attributes:
        name: the name of the type in the op table.
        stored: the element type in the weights file.
        onnx_type: the element type in graphs, under its name in ONNX's TensorProto.
        dtype: the dtype of the values that `decode` returns.
        step: distance between neighbouring values, relative to a typical value.
        scales: element type of a kernel's scales in the weights file, or None if kernels have no scales. If kernels
            have scales, the rows that enter a product are also quantized to integers, with one scale per row.
        group: number of consecutive weights in a column that share a scale. 0 means that the whole column shares one
            scale.
        opset: the lowest ONNX opset that supports such weights. 0 means that every opset supports them.
        enters_functions: whether a function body can pass a tensor of this type directly to a nested function. If not,
            ONNX Runtime needs an op such as Identity in between.
    """

    name: WeightName
    stored: StoredType
    onnx_type: str
    dtype: np.dtype[Any]
    step: float
    scales: StoredType | None = None
    group: int = 0
    opset: int = 0
    enters_functions: bool = True

    @abstractmethod
    def encode(self, weights: Array) -> tuple[Array, Array | None]:
        """Convert float32[..., depth, columns] to stored values. Return these values and their scales, which may be None.

        Raises:
            OverflowError: a value is outside the type's range. The message suggests another precision.
        """

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        """Convert the flat array of a stored tensor to values with this shape."""
        return stored.reshape(shape)

    @abstractmethod
    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        """Return whether `found` and `scales` are the nearest encoding of the matrix `official`, float32[depth, columns].

        If `calibrated` is true, only the scales must match, and `found` may have any values.
        """

    @abstractmethod
    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        """Multiply x[..., T, D] by w[..., D, P], whose scales are `w_scale`. The result [..., T, P] has the dtype of x."""

    @abstractmethod
    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        """Return ONNX node lines for `result = x . w`.

        Args:
            x, w, result: names of the values.
            scale: name of the scales of w, or "" if w is a result of `widen_lines`. Scales per column need a shape that can
                be broadcast to the result.
            depth: depth of w if w is a single matrix, and 0 if w has a leading axis of experts.
        """

    def widen_lines(self, w: str, scale: str, result: str) -> str:
        """Return ONNX node lines that convert the weights of several matrices to float32.

        The weights are converted before they are split into chunks. If weights can be split in their own type, the returned
        string is empty.
        """
        return ""
