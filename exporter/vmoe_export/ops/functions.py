"""The vmoe ops as ONNX functions of standard ops, so that a stock runtime runs them with no library of ours."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.parser

from vmoe_export.ops import experts_choice_bodies, layer_bodies, merging_body, routing_bodies, soft_bodies
from vmoe_export.ops.onnx_lines import cast
from vmoe_export.ops.table import DOMAIN, INT4_OPSET, OPS, OPSET, PLUGIN_ATTRIBUTES, VERSION, Activation, ElementType

_AS_THEY_ARE = ("VmoeGates", "VmoeRoute", "VmoeDispatch")


def function_bodies(
    *,
    dense: ElementType = "float",
    experts: ElementType = "float",
    attention_bf16: bool | None = None,
    dispatch_bf16: bool = False,
    soft_bf16: bool = False,
    dense_chunks: int = 1,
    expert_chunks: int = 1,
    tokens: ElementType = "float",
    gates: ElementType = "float",
    policies: bool = True,
    merging: bool = False,
    prefix: int = 0,
    activation: Activation = "gelu_tanh",
) -> list[onnx.FunctionProto]:
    """The ONNX function of each op of the table, written for one model.

    Args:
        dense: the type W of the dense layers: of VmoeLinear, VmoeDenseMlp, VmoeMlpBlock and both attention blocks.
        experts: the type W of the experts: of VmoeExpertMlp and VmoeExpertBlock.
        attention_bf16: what the `bf16` attribute of VmoeAttention nodes says. Default: 1 where `dense` is not float.
        dispatch_bf16, soft_bf16: what the `dispatch_bf16` of the model's nodes says; the latter of those of Soft MoE.
        dense_chunks, expert_chunks: chunks that the dense layers' and the experts' `hidden_chunk` cuts hidden features into.
        tokens, gates: the types T and R of the model, for the ops that have them.
        policies, merging: whether ops take `pool` and `max_experts`, and what tokens are merged by; without, shorter.
        prefix: what the `prefix` attribute of the model's nodes says.
        activation: that of the MLPs.

    Returns:
        One FunctionProto per op, with the attributes of the table and TensorRT's plugin attributes declared.
    """
    texts = {
        "VmoeGates": routing_bodies.GATES,
        "VmoeRoute": routing_bodies.route(gates, policies),
        "VmoeDispatch": routing_bodies.DISPATCH.format(zero_row=cast("zero_row_float", "zero_row", "float", tokens)),
        "VmoeRouteDispatch": routing_bodies.route_dispatch(policies),
        "VmoeExpertMlp": layer_bodies.expert_mlp(experts, dispatch_bf16, expert_chunks, activation),
        "VmoeCombine": routing_bodies.COMBINE.format(
            out=cast("out", "out_float", tokens, "float"),
            weight=cast("weight", "weight_float", gates, "float"),
            y=cast("sum", "y", "float", tokens),
        ),
        "VmoeLinear": layer_bodies.linear(dense),
        "VmoeDenseMlp": layer_bodies.dense_mlp(dense, dense_chunks, activation),
        "VmoeAttention": layer_bodies.attention(dense != "float" if attention_bf16 is None else attention_bf16, merging),
        "VmoeAttentionBlock": layer_bodies.attention_block(dense, merging, class_token=False),
        "VmoeClassAttentionBlock": layer_bodies.attention_block(dense, merging, class_token=True),
        "VmoeMerge": merging_body.merge(prefix),
        "VmoeMlpBlock": layer_bodies.mlp_block(dense, activation),
        "VmoeRouterBlock": layer_bodies.router_block(policies),
        "VmoeExpertBlock": layer_bodies.expert_block(experts, activation),
        "VmoeChooseTokens": experts_choice_bodies.choose_tokens(),
        "VmoeSoftRouter": soft_bodies.SOFT_ROUTER,
        "VmoeSoftDispatch": soft_bodies.soft_dispatch(soft_bf16),
        "VmoeSoftCombine": soft_bodies.soft_combine(soft_bf16),
    }
    opset = INT4_OPSET if experts == "i4" else OPSET
    return [_parse(texts[name], layer_bodies.written_attributes(op, activation), opset) for name, op in OPS.items()]


def fixed_function_bodies(*, dispatched: ElementType, combined: ElementType) -> list[onnx.FunctionProto]:
    """The functions of a graph whose routing settings are attributes: VmoeGates, VmoeRouteDispatch and VmoeCombine, and what
    they call.

    Args:
        dispatched: the type of the tokens that VmoeRouteDispatch takes; gates are float32.
        combined: the type of the tokens that VmoeCombine takes.

    Returns:
        VmoeRouteDispatch with the inputs gates and x and the attributes capacity, k and bpr, which have no defaults; and
        the others as `function_bodies` gives them.
    """
    return [
        *(body for body in function_bodies(tokens=dispatched, policies=False) if body.name in _AS_THEY_ARE),
        _parse(routing_bodies.ROUTE_DISPATCH_FIXED, {}),
        *(body for body in function_bodies(tokens=combined) if body.name == "VmoeCombine"),
    ]


def _parse(text: str, attributes: Mapping[str, int], opset: int = OPSET) -> onnx.FunctionProto:
    """A function with these attributes declared, and TensorRT's."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": {VERSION}]>'
    function = onnx.parser.parse_function(header + "\n".join(line.split("#")[0] for line in text.splitlines()))
    for attribute, default in {**attributes, **PLUGIN_ATTRIBUTES}.items():
        function.attribute_proto.append(onnx.helper.make_attribute(attribute, default))
    return function
