"""The functions of all ops, as one model takes them."""

from __future__ import annotations

import onnx

from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.ops.functions import BodyOptions, function_bodies
from vmoe_export.precision import PRECISIONS, hidden_chunk
from vmoe_export.weight_types import WeightType


def model_bodies(model: ExportedModel, *, policies: bool, merging: bool) -> list[onnx.FunctionProto]:
    """The functions of all ops in the types and chunks of the model.

    With `policies` they take `vmoe_runtime.settings.POLICIES`, and with `merging` what tokens are merged by.
    """
    config, moe, numbers = model.config, model.config.moe, PRECISIONS[model.precision]

    def chunks(hidden: int, weights: WeightType) -> int:
        return hidden // (hidden_chunk(hidden, weights) or hidden)

    bf16 = bool(moe and moe.dispatch_bf16)
    is_soft = bool(moe and moe.routing.kind == "soft")
    options = BodyOptions(
        dense=numbers.dense,
        experts=numbers.experts,
        dispatch_bf16=bf16 and not is_soft,
        soft_bf16=bf16 and is_soft,
        dense_chunks=chunks(config.mlp_dim, numbers.dense),
        expert_chunks=chunks(moe.mlp_dim, numbers.experts) if moe else 1,
        policies=policies,
        merging=merging,
        prefix=config.prefix_tokens,
        activation=config.activation,
    )
    return function_bodies(options)
