"""What the functions of one model are written for, and the inputs and attributes that its nodes have by that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vmoe_export.ops.table import ACTIVATIONS, OPS, Activation, ElementType, Op, Value
from vmoe_export.weight_types import FLOAT32, WeightType
from vmoe_runtime.settings import MERGE, POLICIES

MERGING_INPUTS = ("sizes", "token", MERGE)
"""The inputs by which tokens are merged, of the ops that may do without."""
ROTATION_INPUTS = ("coordinates", "frequencies")
"""Those by which queries and keys are rotated."""
MIXED_NORM_INPUTS = ("mixed_ln_scale", "mixed_ln_bias")
"""The norm of what attention gives."""
GATE_INPUTS = ("wg", "bg")
"""The gate of an MLP."""
HIDDEN_NORM_INPUTS = ("hidden_ln_scale", "hidden_ln_bias")
"""The norm of an MLP's hidden features."""
USUAL_INPUTS = frozenset(("ln_bias", *POLICIES))
"""The optional inputs that the ops of official models have, but for those of merging."""


@dataclass(frozen=True, kw_only=True)
class BodyOptions:
    """What the functions of one model are written for.

    Attributes:
        dense: the type W of the dense layers: of VmoeLinear, VmoeDenseMlp, VmoeMlpBlock and both attention blocks.
        experts: the type W of the experts: of VmoeExpertMlp and VmoeExpertBlock.
        attention_bf16: what the `bf16` attribute of VmoeAttention nodes says. Default: 1 where `dense` is not float.
        dispatch_bf16, soft_bf16: what the `dispatch_bf16` of the model's nodes says; the latter of those of Soft MoE.
        dense_chunks, expert_chunks: chunks that the dense layers' and the experts' `hidden_chunk` cuts hidden features into.
        tokens: the type T of the model, for the ops that have it.
        given: the optional inputs that the ops have, scales aside.
        prefix: what the `prefix` attribute of the model's nodes says.
        activation: that of the MLPs.
    """

    dense: WeightType = FLOAT32
    experts: WeightType = FLOAT32
    attention_bf16: bool | None = None
    dispatch_bf16: bool = False
    soft_bf16: bool = False
    dense_chunks: int = 1
    expert_chunks: int = 1
    tokens: ElementType = "float"
    given: Collection[str] = USUAL_INPUTS
    prefix: int = 0
    activation: Activation = "gelu_tanh"


def input_names(op: str, weights: WeightType, given: Collection[str] = USUAL_INPUTS) -> list[str]:
    """The inputs that nodes of the op have: of the optional ones those that are `given`, scales of weights that have any,
    and whatever stands before another one.
    """
    values = {value.name: value for value in OPS[op].inputs}

    def is_given(value: Value) -> bool:
        if value.scale_of:
            return weights.scales is not None and is_given(values[value.scale_of])
        return not value.optional or value.name in given

    names = list(values)
    while not is_given(values[names[-1]]):
        names.pop()
    return names


def written_attributes(op: Op, activation: Activation) -> dict[str, int]:
    """The attributes that nodes and functions of the op have, with their defaults: `activation` only where it isn't the
    default.
    """
    default = activation == ACTIVATIONS[0]
    return {name: value for name, value in op.attributes.items() if name != "activation" or not default}
