"""Write the ops of a model for strongly typed TensorRT networks, at one fixed setting of the router.

TensorRT accepts plugins only in the main graph, and takes their settings from attributes. Therefore, VmoeGates,
VmoeRouteDispatch and VmoeCombine are nodes whose attributes are the settings of one profile. All other nodes are
standard ops. The file also defines each of the three plugin ops as a function of standard ops, so that a stock
runtime can run the graph. From version 10.7 on, TensorRT's parser prefers a plugin to a function of the same name.
Older parsers use the function even if the plugin is loaded.

A strongly typed network computes in the types of the graph:

- The large products (linear layers, attention, MLPs and experts) are in the type of the chosen precision.
- The residual stream, its layer norms and the head stay float32.
- The router and its gates stay float32, because a rounded gate may choose another expert.
- Every change of type is a Cast. TensorRT casts the stored weights once, when it builds an engine.
- Softmax has the type of the products. If Casts surrounded it, TensorRT could not fuse attention. Fused attention
  computes softmax in float32 internally.

All dimensions except the batch are constants. The only remaining shape operators are those that repeat the class
tokens for each image of the batch. TensorRT 10.1's ONNX parser supports all of these ops in these types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vmoe_export.bundle.weights_file import Span
from vmoe_export.graphs.model_nodes import ModelNodes
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import MoeConfig
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.ops.table import DOMAIN, LAYER_NORM_EPSILON, PLUGIN_ATTRIBUTES, SIGMOID_SLOPES, ElementType
from vmoe_runtime.capacity import count_merged
from vmoe_runtime.precisions import TensorRtPrecision
from vmoe_runtime.profiles import Profile
from vmoe_runtime.settings import MERGE

_PRODUCT_TYPES: Mapping[TensorRtPrecision, ElementType] = {"fp32": "float", "fp16": "fp16", "bf16": "bf16"}


class TensorRtNodes(ModelNodes):
    """The nodes of a model for TensorRT.

    Args:
        model, weights: as for `ModelNodes`.
        profile: the profile whose capacity, k and bpr become attributes. It is None for a dense ViT that does not merge
            tokens.
        precision: the precision that determines the type of the large products.

    Attributes:
        product_type: the type of the large products.
        dispatched: the type of the tokens sent to the experts.
    """

    def __init__(
        self, model: ExportedModel, weights: Mapping[str, Span], profile: Profile | None, precision: TensorRtPrecision
    ) -> None:
        super().__init__(model, weights, [MERGE] if profile and profile.merge else [])
        self._profile = profile
        self.product_type = _PRODUCT_TYPES[precision]
        # If the products are float32 and the model's dispatcher rounds to bfloat16, tokens are dispatched as bfloat16. If
        # the products have a shorter type than float32, the experts' inputs and outputs are rounded to that type only.
        moe = model.config.moe
        self._rounds = bool(moe and moe.dispatch_bf16 and self.product_type == "float")
        self.dispatched: ElementType = "bf16" if self._rounds else self.product_type
        self._types: dict[str, ElementType] = {name: "bf16" for name, span in weights.items() if span.dtype == "BF16"}
        self._casts: dict[tuple[str, ElementType], str] = {}
        self._tokens = model.config.num_tokens  # number of tokens that merging has left in an image so far
        self._numbers: dict[Any, str] = {}

    def _unmerged(self) -> dict[str, str]:
        assert self._profile is not None
        self._constant(MERGE, [self._profile.merge], np.int64)
        return super()._unmerged()

    def _group_left(self) -> int:
        return self._tokens * self.model.grouping.tokens // self._config.num_tokens

    def _layer_outputs(self) -> Sequence[str]:
        # a plugin can't return bools such as "kept"; "kept" and "expert" are computed from the slots
        return "slot", "weight"

    def _capacities(self) -> Sequence[str]:
        return [str(slots) for slots in self._profile.slots] if self._profile else []

    def _cut(self, x: str) -> str:
        return super()._cut(self._as(x, "float"))

    def _append(self, node: onnx.NodeProto) -> list[str]:
        """Add a standard op that computes in float32.

        If the outputs of the op are small and known at export, add constants in place of the op.
        """
        known = self._known(node)
        if known is not None:
            keys = [(array.dtype, array.shape, array.tobytes()) for array in known]
            names = [self._numbers.setdefault(key, f"known_{len(self._numbers)}") for key in keys]
            return [self._constant(name, array, array.dtype) for name, array in zip(names, known, strict=True)]
        node.input[:] = [self._as(name, "float") if name in self._types else name for name in node.input]
        return super()._append(node)

    def _known(self, node: onnx.NodeProto) -> list[Any] | None:
        """Return the outputs of a node if they are known at export, and None otherwise.

        There are two ways to know the outputs: the node reads the number or the width of the tokens from a shape, or all
        inputs of the node are constants. An output that has more elements than an image has tokens does not count as known.
        """
        if node.op_type == "Shape":
            start = next((attribute.i for attribute in node.attribute if attribute.name == "start"), 0)
            return [np.array([(self._tokens, self._config.hidden_size)[start - 1]])] if start else None
        tensors = [self._tensors.get(name) for name in node.input]
        if not all(tensor and not tensor.external_data for tensor in tensors):
            return None
        from onnx.reference import ReferenceEvaluator

        feeds = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if tensor}
        found = [np.asarray(array) for array in ReferenceEvaluator(node).run(None, feeds)]
        return found if found[0].size <= self._config.num_tokens else None

    def _write(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        match op:
            case "VmoeLinear":
                x, w, b = inputs
                return [self._linear_of(x, w, b, outputs[0])]
            case "VmoeDenseMlp":
                x, w1, b1, w2, b2, _, _, wg, bg, _, *norm = [*inputs, *[""] * (10 - len(inputs))]
                hidden = self._linear_of(x, w1, b1)
                gate = self._activate(self._linear_of(x, wg, bg) if wg else hidden)
                hidden = self._product("Mul", gate, hidden) if wg else gate
                if norm:
                    hidden = self._add("LayerNormalization", hidden, *norm, axis=-1, epsilon=LAYER_NORM_EPSILON)
                return [self._linear_of(hidden, w2, b2, outputs[0])]
            case "VmoeAttention":
                q, k, v, *sizes = inputs
                return [self._heads(q, k, v, sizes, attributes["num_heads"], outputs[0])]
            case "VmoeMerge":
                found = self._expand(self.functions[op], inputs, outputs, attributes)
                assert self._profile is not None
                self._tokens -= count_merged(self._tokens, self._profile.merge or 0, attributes["prefix"])
                return found
            case _:
                return self._expand(self.functions[op], inputs, outputs, attributes)

    def _heads(self, q: str, k: str, v: str, sizes: Sequence[str], heads: int, output: str) -> str:
        """Write multi-head attention.

        If tokens are merged, `sizes` holds the name of the keys' sizes. Otherwise, it is empty.
        """
        size = self._config.hidden_size // heads
        # A 0 in the shape of a Reshape copies that dimension from the input. With two zeros, the batch is the only dimension
        # that is not constant.
        split, merge = self._integers(0, 0, heads, size), self._integers(0, 0, heads * size)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        query, key, value = (
            self._product("Transpose", self._product("Reshape", self._as(x, self.product_type), split), perm=order)
            for x, order in zip((q, k, v), orders, strict=True)
        )
        name = "attention_scale" if heads == self._config.num_heads else "pool_attention_scale"
        scale = self._as(self._constant(name, 1 / math.sqrt(size), np.float32), self.product_type)
        scores = self._product("MatMul", self._product("Mul", query, scale), key)
        if sizes and self._tokens < self._config.num_tokens:
            counts = self._add("Unsqueeze", self._add("Log", *sizes), self._integers(1, 2))
            scores = self._product("Add", scores, self._as(counts, self.product_type))
        mixed = self._product("MatMul", self._product("Softmax", scores, axis=-1), value)
        by_token = self._product("Transpose", mixed, perm=[0, 2, 1, 3])
        return self._product("Reshape", by_token, merge, output=output)

    def _top_k(self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str]) -> str:
        """Write an MoE layer with top-K routing for groups x[G,S,D].

        The nodes compute the layer norm, routing, dispatch, experts, combine and the residual.
        """
        assert self._profile is not None and self._profile.k is not None and self._profile.bpr is not None
        setting = {"capacity": int(capacity), "k": self._profile.k, "bpr": int(self._profile.bpr)}
        router = f"{block}/Moe/Router/dense/kernel"
        w1, b1, w2, b2 = self._mlp(f"{block}/Moe/Mlp").values()
        normed = self._layer_norm(f"{block}/LayerNorm_1", x)
        (gates,) = self._plugin("VmoeGates", [normed, router], [""])
        tokens = self._as(normed, self.dispatched)
        slot, weight, buf = self._plugin("VmoeRouteDispatch", [gates, tokens], [*outputs, ""], setting)
        self._types[buf] = self.dispatched
        out = self._linear_of(self._activate(self._linear_of(buf, w1, self._by_expert(b1))), w2, self._by_expert(b2))
        if self._rounds:
            out = self._as(self._as(out, "bf16"), "float")
        (y,) = self._plugin("VmoeCombine", [out, slot, weight], [""])
        self._types[y] = self.product_type
        return self._add("Add", x, y)

    def _linear_of(self, x: str, w: str, b: str, output: str = "") -> str:
        """Write x . w + b in the type of the products, where w is an initializer."""
        product = self._product("MatMul", self._as(x, self.product_type), self._as(w, self.product_type))
        return self._product("Add", product, self._as(b, self.product_type), output=output)

    def _activate(self, x: str) -> str:
        if number := SIGMOID_SLOPES.get(self._config.activation):
            slope = self._as(self._constant("gelu_slope", number, np.float32), self.product_type)
            return self._product("Mul", x, self._product("Sigmoid", self._product("Mul", x, slope)))
        return self._product("Gelu", x, approximate="tanh" if self._config.activation == "gelu_tanh" else "none")

    def _by_expert(self, bias: str) -> str:
        """Declare a tensor [E,1,D] that refers to the bytes of a bias [E,D], and return the new tensor's name."""
        experts, width = self._weights[bias].shape
        return self._part(bias, f"{bias}/by_expert", 0, experts, 1, width)

    def _plugin(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], setting: Mapping[str, int] | None = None
    ) -> list[str]:
        attributes: dict[str, Any] = {**(setting or {}), **PLUGIN_ATTRIBUTES}
        return super()._append(helper.make_node(op, inputs, outputs, domain=DOMAIN, **attributes))

    def _product(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node that computes in the product type."""
        (made,) = super()._append(helper.make_node(op, inputs, [output], **attributes))
        self._types[made] = self.product_type
        return made

    def _as(self, value: str, wanted: ElementType) -> str:
        """Return the name of the value in the wanted type.

        If the value has another type and has not been cast yet, add a Cast.
        """
        if self._types.get(value, "float") == wanted:
            return value
        if (value, wanted) not in self._casts:
            (cast,) = super()._append(helper.make_node("Cast", [value], [f"{value}/{wanted}"], to=ONNX_TYPES[wanted]))
            self._types[cast] = wanted
            self._casts[value, wanted] = cast
        return self._casts[value, wanted]
