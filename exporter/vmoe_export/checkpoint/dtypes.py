"""The array dtypes that a checkpoint may name."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from vmoe_export.errors import CheckpointError

_EXTENDED: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}


def dtype_from_name(name: object) -> np.dtype[Any]:
    """The numpy dtype of a name such as "float32" or "bfloat16".

    Raises:
        CheckpointError: not the name of a plain number type.
    """
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if isinstance(text, str):
        if text in _EXTENDED:
            return _EXTENDED[text]
        try:
            dtype: np.dtype[Any] = np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            pass
        else:
            if dtype.kind in "biufc" and dtype.isnative:
                return dtype
    raise CheckpointError(f"unknown dtype {text!r}")
