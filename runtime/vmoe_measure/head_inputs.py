"""Which features a head is fitted to, for its file: another model's may have as many, and give wrong classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vmoe_runtime.preprocessing import Preprocessing

FITTED_TO = "fitted_to"
"""The array of a head's npz file that holds them, as JSON."""

_ROUTING_AND_NAMES = ("moe", "num_classes", "family", "origins")  # of these, features of one model may have others


def is_sampled(name: str) -> bool:
    """Whether a tensor counts for `head_inputs`: the biases and norms of all but the head, float32 in every precision."""
    return name.rpartition("/")[2] in ("bias", "scale") and not name.startswith("head/")


def head_inputs(
    model: Mapping[str, Any], preprocessing: Preprocessing, tensors: Iterable[tuple[str, bytes]]
) -> dict[str, Any]:
    """What a model's features depend on: the same for its checkpoint and its bundles of any output and precision.

    Args:
        model: its description in a manifest.
        preprocessing: of pictures; whether they are turned by their EXIF orientation doesn't count.
        tensors: name and float32 bytes of each that `is_sampled`.
    """
    digest = hashlib.sha256()
    for name, data in sorted(tensors):
        digest.update(f"{name}\n".encode() + data)
    told = {name: value for name, value in model.items() if name not in _ROUTING_AND_NAMES}
    steps = str(replace(preprocessing, rotates=False))
    found: dict[str, Any] = json.loads(json.dumps({"weights": digest.hexdigest(), "preprocessing": steps, **told}))
    return found
