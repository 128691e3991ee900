"""Options of a model's ONNX functions. They also determine the inputs and attributes of the model's nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vmoe_export.ops.table import ACTIVATIONS, OPS, Activation, ElementType, Op, Value
from vmoe_export.weight_types import FLOAT32, WeightType
from vmoe_runtime.settings import MERGE, POLICIES

MERGING_INPUTS = ("sizes", "token", MERGE)
"""The optional inputs for merging tokens."""
ROTATION_INPUTS = ("coordinates", "frequencies")
"""The optional inputs for rotating queries and keys."""
MIXED_NORM_INPUTS = ("mixed_ln_scale", "mixed_ln_bias")
"""The optional norm of attention's output, before the projection."""
GATE_INPUTS = ("wg", "bg")
"""The optional gate of an MLP."""
HIDDEN_NORM_INPUTS = ("hidden_ln_scale", "hidden_ln_bias")
"""The optional norm of an MLP's hidden features."""
USUAL_INPUTS = frozenset(("ln_bias", *POLICIES))
"""The optional inputs of the ops of an official model that does not merge tokens."""


@dataclass(frozen=True, kw_only=True)
class BodyOptions:
    """Options of the ONNX functions written for one model.

    Attributes:
        dense: the type W of the dense layers: VmoeLinear, VmoeDenseMlp, VmoeMlpBlock and both attention blocks.
        experts: the type W of the experts: VmoeExpertMlp and VmoeExpertBlock.
        attention_bf16: the attribute `bf16` of VmoeAttention. Default: 1 if `dense` is a type other than float32.
        dispatch_bf16: the attribute `dispatch_bf16` of the ops, except those of Soft MoE.
        soft_bf16: the attribute `dispatch_bf16` of the ops of Soft MoE.
        dense_chunks: number of chunks into which `hidden_chunk` splits the hidden features of dense MLPs.
        expert_chunks: number of chunks into which `hidden_chunk` splits the hidden features of experts.
        tokens: the type T, for the ops that have values of this type.
        given: names of the optional inputs that the ops have, apart from scales.
        prefix: the attribute `prefix` of the ops.
        activation: the activation of the MLPs.
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
    """Return the names of the inputs that nodes of an op have.

    The list ends with the last input that is needed. Needed inputs are required inputs, inputs in `given` and, if the
    weights have scales, the scales. Optional inputs before the last one are always listed, because nodes identify
    inputs by position.
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
    """Return the attributes of the op's nodes and functions, with their defaults.

    `activation` is left out if the model has the default activation.
    """
    default = activation == ACTIVATIONS[0]
    return {name: value for name, value in op.attributes.items() if name != "activation" or not default}
