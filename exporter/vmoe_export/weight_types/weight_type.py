"""What there is to know of a type of weights; each type has a module beside this one, with a row for all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np

from vmoe_runtime.precisions import StoredType

Array = np.ndarray[Any, np.dtype[Any]]

WeightName = Literal["float", "bf16", "i8", "i4"]
"""Element type of the weights of a product, as the table of ops names it."""


def stored_shape(shape: tuple[int, ...], dtype: StoredType) -> tuple[int, ...]:
    """The shape that safetensors gives a tensor of that shape."""
    return (*shape[:-1], shape[-1] // 2) if dtype == "U8" else shape


class WeightType(ABC):
    """A type of weights: how they are stored, and how a product with them is computed.

    Attributes:
        name: as the table of ops has it.
        stored: its element type in the weights file.
        onnx_type: its element type in graphs, a name of TensorProto's.
        dtype: what `decode` gives.
        step: from one value of the type to the next, as a share of a typical value.
        scales: element type of the scales of a kernel in the weights file; None where kernels have none. Then rows that
            enter a product are rounded to whole numbers, too, each with a scale of its own.
        group: weights of a column, next to each other along the depth, that share a scale; 0 where all of them do.
        opset: the least that graphs with such weights need; 0 for any.
        enters_functions: whether ONNX Runtime takes such a tensor into a function without an op before it.
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
        """f32[..., depth, columns] -> the values as stored, and their scales or None.

        Raises:
            OverflowError: the type has no room for a value; with what to do instead.
        """

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        """The flat array of a stored tensor, and its shape -> its values."""
        return stored.reshape(shape)

    @abstractmethod
    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        """Whether values and scales are those that a matrix f32[depth, columns] has in this type. If `calibrated`, any
        values at these scales.
        """

    @abstractmethod
    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        """x[..., T, D], w[..., D, P] and scales -> [..., T, P], in the dtype of x."""

    @abstractmethod
    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        """Node lines of ONNX for `result = x . w`: x, w, result, the scales, and the depth of a matrix or 0.

        Scales by column must be shaped so that they multiply the result. An empty name of scales: w went through
        `widen_lines`.
        """

    def widen_lines(self, w: str, scale: str, result: str) -> str:
        """Node lines for the weights in float32, of the weights, scales and result, where those of several matrices are
        widened before they are cut into chunks; empty where they are cut as they are.
        """
        return ""
