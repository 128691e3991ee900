"""The types in which weights are stored and multiplied. Each type has its own module.

A precision combines several of these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmoe_export.weight_types.bfloat16 import BFLOAT16
from vmoe_export.weight_types.float32 import FLOAT32
from vmoe_export.weight_types.int4 import INT4
from vmoe_export.weight_types.int8 import INT8
from vmoe_export.weight_types.weight_type import WeightName, WeightType

__all__ = ["BFLOAT16", "FLOAT32", "INT4", "INT8", "WEIGHT_TYPES", "WeightName", "WeightType", "weight_type_of"]

WEIGHT_TYPES: Mapping[WeightName, WeightType] = {each.name: each for each in (FLOAT32, BFLOAT16, INT8, INT4)}


def weight_type_of(dtype: np.dtype[Any]) -> WeightType:
    """Return the weight type whose weights are stored as `dtype`, or float32 if there is none."""
    return next((each for each in WEIGHT_TYPES.values() if each.dtype == dtype), FLOAT32)
