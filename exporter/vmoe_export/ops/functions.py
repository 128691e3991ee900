"""Write the vmoe ops as ONNX functions that consist of standard ops.

With these functions, a stock runtime can run the vmoe ops without the op library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx.parser

from vmoe_export.ops import experts_choice_bodies, layer_bodies, merging_body, routing_bodies, soft_bodies
from vmoe_export.ops.body_options import BodyOptions, input_names, written_attributes
from vmoe_export.ops.onnx_lines import cast
from vmoe_export.ops.table import DOMAIN, OPS, OPSET, PLUGIN_ATTRIBUTES, VERSION, ElementType
from vmoe_runtime.settings import MERGE


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
    "VmoeExpertMlp": layer_bodies.expert_mlp,
    "VmoeCombine": _combine,
    "VmoeLinear": layer_bodies.linear,
    "VmoeDenseMlp": layer_bodies.dense_mlp,
    "VmoeAttention": layer_bodies.attention,
    "VmoeRotate": lambda _: layer_bodies.ROTATE,
    "VmoeAttentionBlock": lambda o: layer_bodies.attention_block(o, class_token=False),
    "VmoeClassAttentionBlock": lambda o: layer_bodies.attention_block(o, class_token=True),
    "VmoeMerge": lambda o: merging_body.merge(o.prefix, "coordinates" in o.given),
    "VmoeMlpBlock": layer_bodies.mlp_block,
    "VmoeRouterBlock": layer_bodies.router_block,
    "VmoeExpertBlock": layer_bodies.expert_block,
    "VmoeChooseTokens": lambda _: experts_choice_bodies.choose_tokens(),
    "VmoeSoftRouter": lambda _: soft_bodies.SOFT_ROUTER,
    "VmoeSoftDispatch": lambda o: soft_bodies.soft_dispatch(o.soft_bf16),
    "VmoeSoftCombine": lambda o: soft_bodies.soft_combine(o.soft_bf16),
}


def function_bodies(options: BodyOptions) -> list[onnx.FunctionProto]:
    """Return the ONNX function of each op of the table, with the table's attributes and TensorRT's plugin attributes."""
    return [function_body(op, options) for op in OPS]


def function_body(op: str, options: BodyOptions) -> onnx.FunctionProto:
    """Return the ONNX function of one op."""
    inputs = input_names(op, options.experts if "Expert" in op else options.dense, options.given)
    outputs = [
        value.name  # the outputs for merging exist only if tokens are merged
        for value in OPS[op].outputs
        if not (value.optional and value.name.startswith("merged_"))
        or {MERGE, value.name.removeprefix("merged_")} <= {*options.given}
    ]
    text = f"{op} ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {_BODIES[op](options)} }}"
    return _parse(text, written_attributes(OPS[op], options.activation), max(OPSET, options.experts.opset))


def fixed_function_bodies(*, dispatched: ElementType, combined: ElementType) -> list[onnx.FunctionProto]:
    """Return the ONNX functions of a graph in which the routing settings are attributes.

    They are VmoeGates, VmoeRouteDispatch, VmoeCombine, and the functions that these three call.

    Args:
        dispatched: type of the tokens that VmoeRouteDispatch takes. Gates are float32.
        combined: type of the tokens that VmoeCombine takes.

    Returns:
        The functions. VmoeRouteDispatch has the inputs gates and x, and the attributes capacity, k and bpr, which have
        no defaults. All other functions are results of `function_body`.
    """
    options = BodyOptions(tokens=dispatched, given=())
    return [
        *(function_body(op, options) for op in ("VmoeGates", "VmoeRoute", "VmoeDispatch")),
        _parse(routing_bodies.ROUTE_DISPATCH_FIXED, {}),
        function_body("VmoeCombine", BodyOptions(tokens=combined)),
    ]


def _parse(text: str, attributes: Mapping[str, int], opset: int = OPSET) -> onnx.FunctionProto:
    """Parse a function. Add `attributes` and TensorRT's plugin attributes to the function's attributes."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": {VERSION}]>'
    function = onnx.parser.parse_function(header + "\n".join(line.split("#")[0] for line in text.splitlines()))
    for attribute, default in {**attributes, **PLUGIN_ATTRIBUTES}.items():
        function.attribute_proto.append(onnx.helper.make_attribute(attribute, default))
    return function
