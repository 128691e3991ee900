"""What a batch asks of the experts: the rows they work on, and the weights that are read for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vmoe_measure.flops import ModelShape, sparse_flops
from vmoe_runtime import Routing
from vmoe_runtime.bundle.manifest import Manifest, Precision
from vmoe_runtime.errors import BundleError

_WEIGHT_BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2, "bf16-experts": 2, "int8": 1}


def expert_rows(routing: Mapping[str, Routing]) -> list[int]:
    """Of each MoE layer, the rows that all experts together work on: pairs that were kept, or the slots of a Soft MoE."""
    rows = []
    for layer in routing.values():
        if layer.kept is not None:
            rows.append(int(np.count_nonzero(layer.kept)))
        else:
            assert layer.dispatch is not None
            groups, _, experts, slots = layer.dispatch.shape
            rows.append(groups * experts * slots)
    return rows


def experts_used(routing: Mapping[str, Routing]) -> int:
    """Over all MoE layers, the experts that have any row to work on."""
    used = 0
    for layer in routing.values():
        if layer.kept is None:
            assert layer.dispatch is not None
            used += layer.dispatch.shape[2]
        elif layer.expert is None:
            used += int(np.count_nonzero(layer.kept.any(axis=(0, 1))))
        else:
            used += len(np.unique(layer.expert[layer.kept]))
    return used


def model_shape(manifest: Manifest) -> ModelShape | None:
    """The sizes that FLOPs are counted from; None where the manifest doesn't say them."""
    try:
        return ModelShape.of(manifest.model, features=manifest.output == "features")
    except BundleError:
        return None


def flops_per_image(shape: ModelShape, rows: list[int], images: int) -> int:
    """FLOPs per image: matrix products, those of the experts for the rows that they worked on over all images."""
    return sparse_flops(shape, [layer / images for layer in rows])


def expert_bytes(shape: ModelShape, manifest: Manifest) -> int:
    """Bytes of one expert's two weight matrices."""
    return 2 * shape.width * shape.expert_mlp_dim * _WEIGHT_BYTES[manifest.precision]
