"""The vmoe ops as ONNX functions of standard ops, so that a stock runtime runs them with no library of ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx
import onnx.parser

from vmoe_export.ops import experts_choice_bodies, layer_bodies, merging_body, routing_bodies, soft_bodies
from vmoe_export.ops.layer_bodies import USUAL_INPUTS
from vmoe_export.ops.onnx_lines import cast
from vmoe_export.ops.table import DOMAIN, OPS, OPSET, PLUGIN_ATTRIBUTES, VERSION, Activation, ElementType
from vmoe_export.weight_types import FLOAT32, WeightType


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


def _attention(options: BodyOptions) -> str:
    default = options.dense is not FLOAT32
    return layer_bodies.attention(default if options.attention_bf16 is None else options.attention_bf16, options.given)


def _combine(options: BodyOptions) -> str:
    return routing_bodies.COMBINE.format(
        out=cast("out", "out_float", options.tokens, "float"),
        y=cast("sum", "y", "float", options.tokens),
    )


def _dispatch(options: BodyOptions) -> str:
    return routing_bodies.DISPATCH.format(zero_row=cast("zero_row_float", "zero_row", "float", options.tokens))


_BODIES: Mapping[str, Callable[[BodyOptions], str]] = {
    "VmoeGates": lambda _: routing_bodies.GATES,
    "VmoeRoute": lambda o: routing_bodies.route("pool" in o.given),
    "VmoeDispatch": _dispatch,
    "VmoeRouteDispatch": lambda o: routing_bodies.route_dispatch("pool" in o.given),
    "VmoeExpertMlp": lambda o: layer_bodies.expert_mlp(o.experts, o.dispatch_bf16, o.expert_chunks, o.activation),
    "VmoeCombine": _combine,
    "VmoeLinear": lambda o: layer_bodies.linear(o.dense),
    "VmoeDenseMlp": lambda o: layer_bodies.dense_mlp(o.dense, o.dense_chunks, o.activation, o.given),
    "VmoeAttention": _attention,
    "VmoeRotate": lambda _: layer_bodies.rotate(),
    "VmoeAttentionBlock": lambda o: layer_bodies.attention_block(o.dense, o.given, class_token=False),
    "VmoeClassAttentionBlock": lambda o: layer_bodies.attention_block(o.dense, o.given, class_token=True),
    "VmoeMerge": lambda o: merging_body.merge(o.prefix, "coordinates" in o.given),
    "VmoeMlpBlock": lambda o: layer_bodies.mlp_block(o.dense, o.activation, o.given),
    "VmoeRouterBlock": lambda o: layer_bodies.router_block(o.given),
    "VmoeExpertBlock": lambda o: layer_bodies.expert_block(o.experts, o.activation),
    "VmoeChooseTokens": lambda _: experts_choice_bodies.choose_tokens(),
    "VmoeSoftRouter": lambda _: soft_bodies.SOFT_ROUTER,
    "VmoeSoftDispatch": lambda o: soft_bodies.soft_dispatch(o.soft_bf16),
    "VmoeSoftCombine": lambda o: soft_bodies.soft_combine(o.soft_bf16),
}


def function_bodies(options: BodyOptions) -> list[onnx.FunctionProto]:
    """The ONNX function of each op of the table, with the attributes of the table and TensorRT's plugin attributes."""
    return [function_body(op, options) for op in OPS]


def function_body(op: str, options: BodyOptions) -> onnx.FunctionProto:
    """The ONNX function of one op."""
    attributes = layer_bodies.written_attributes(OPS[op], options.activation)
    return _parse(_BODIES[op](options), attributes, max(OPSET, options.experts.opset))


def fixed_function_bodies(*, dispatched: ElementType, combined: ElementType) -> list[onnx.FunctionProto]:
    """The functions of a graph whose routing settings are attributes: VmoeGates, VmoeRouteDispatch and VmoeCombine, and what
    they call.

    Args:
        dispatched: the type of the tokens that VmoeRouteDispatch takes; gates are float32.
        combined: the type of the tokens that VmoeCombine takes.

    Returns:
        VmoeRouteDispatch with the inputs gates and x and the attributes capacity, k and bpr, which have no defaults; and
        the others as `function_body` gives them.
    """
    options = BodyOptions(tokens=dispatched, given=())
    return [
        *(function_body(op, options) for op in ("VmoeGates", "VmoeRoute", "VmoeDispatch")),
        _parse(routing_bodies.ROUTE_DISPATCH_FIXED, {}),
        function_body("VmoeCombine", BodyOptions(tokens=combined)),
    ]


def _parse(text: str, attributes: Mapping[str, int], opset: int = OPSET) -> onnx.FunctionProto:
    """A function with these attributes declared, and TensorRT's."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": {VERSION}]>'
    function = onnx.parser.parse_function(header + "\n".join(line.split("#")[0] for line in text.splitlines()))
    for attribute, default in {**attributes, **PLUGIN_ATTRIBUTES}.items():
        function.attribute_proto.append(onnx.helper.make_attribute(attribute, default))
    return function
