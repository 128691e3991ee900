"""The number types that tensors of a checkpoint may have."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np

from vmoe_export.errors import CheckpointError

_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def dtype_from_name(name: object) -> np.dtype[Any]:
    """Return the numpy dtype for a name such as "float32" or "bfloat16".

    Raises:
        CheckpointError: `name` is not the name of a number type in native byte order.
    """
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if text in _EXTENDED:
        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, str(text)))
        return extended
    if isinstance(text, str):
        with suppress(TypeError, ValueError, SyntaxError):
            dtype: np.dtype[Any] = np.dtype(text)
            if dtype.kind in "biufc" and dtype.isnative:
                return dtype
    raise CheckpointError(f"unknown dtype {text!r:.60}")
