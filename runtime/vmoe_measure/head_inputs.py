"""Describes the features for which a head is fitted. The description is stored in the head's file.

Without the description, a head could be used with another model whose features have the same size. It would then
return wrong classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vmoe_runtime.preprocessing import Preprocessing

FITTED_TO = "fitted_to"
"""The array of a head's npz file with the result of `head_inputs` as JSON."""

_ROUTING_AND_NAMES = ("moe", "num_classes", "family", "origins")  # may differ between models with the same features


def is_sampled(name: str) -> bool:
    """Return whether `head_inputs` hashes a tensor.

    It hashes the biases and norms outside the head, because these tensors are float32 in every precision.
    """
    return name.rpartition("/")[2] in ("bias", "scale") and not name.startswith("head/")


def head_inputs(
    model: Mapping[str, Any], preprocessing: Preprocessing, tensors: Iterable[tuple[str, bytes]]
) -> dict[str, Any]:
    """Return everything that a model's features depend on.

    The result is the same for the model's checkpoint and all bundles made from it, whatever their output and precision.

    Args:
        model: the model's description in a manifest.
        preprocessing: how pictures are preprocessed. The result doesn't depend on whether the EXIF orientation is applied.
        tensors: name and float32 bytes of each tensor for which `is_sampled` is true.
    """
    digest = hashlib.sha256()
    for name, data in sorted(tensors):
        digest.update(f"{name}\n".encode() + data)
    told = {name: value for name, value in model.items() if name not in _ROUTING_AND_NAMES}
    steps = str(replace(preprocessing, rotates=False))
    found: dict[str, Any] = json.loads(json.dumps({"weights": digest.hexdigest(), "preprocessing": steps, **told}))
    return found
