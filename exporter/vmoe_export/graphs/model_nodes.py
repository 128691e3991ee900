"""The nodes of a model: what `ExportedModel` says, as ops of the domain vmoe and of ONNX.

There is one walk through the model for every graph of a bundle. It asks for an op of the table wherever one is needed, and
each kind of graph has its own way to write that op: `ModelNodes` as a node of the domain vmoe, `StandardNodes` as nodes of
ONNX, and `TensorRtNodes` as what TensorRT fuses best.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vmoe_export.bundle.weights_file import Span, external_tensor
from vmoe_export.graphs.model_bodies import model_bodies
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import MoeConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, scale_name
from vmoe_export.ops.table import DOMAIN, LAYER_NORM_EPSILON, OPS, PLUGIN_ATTRIBUTES
from vmoe_export.precision import PRECISIONS, STORED_BYTES, hidden_chunk, weight_type
from vmoe_runtime.bundle.manifest import IMAGE_INPUT

_BLOCKS = ("VmoeAttentionBlock", "VmoeMlpBlock", "VmoeExpertBlock")


class ModelNodes:
    """The nodes of a model in the order of their computation, and the tensors that they take.

    A node is named after the layer of the official tree that it belongs to and its op, such as
    `encoderblock_0/SelfAttention/query/MatMul`, and what it computes after its op and number; weights go by their official
    names, and slots by `<block>/slot`.

    Args:
        model: says what to compute.
        weights: where each parameter lies in the weights file.
        settings: the names of the graph's inputs for the settings of the routing kind.

    Attributes:
        nodes: sorted by their inputs.
        functions: the bodies of all ops, written for the model, by op.
        blocks: the op, the input and the output of each part of an encoder block that has a residual.
        cuts: between `model.parts`, the value that alone goes from one to the next.
        outputs: the model's output, then the outputs of each MoE layer.
    """

    def __init__(self, model: ExportedModel, weights: Mapping[str, Span], settings: Sequence[str] = ()) -> None:
        self._model, self._config = model, model.config
        self._weights, self._settings = weights, settings
        self._tensors = {name: external_tensor(name, span) for name, span in weights.items()}
        self._taken: Counter[str] = Counter()
        self._place = "embedding"
        self.functions = {body.name: body for body in model_bodies(model, policies="pool" in settings)}
        self.nodes: list[onnx.NodeProto] = []
        self.blocks: list[tuple[str, str, str]] = []
        self.cuts: list[str] = []
        self.outputs = list(self._forward())

    def initializers(self) -> list[onnx.TensorProto]:
        """The weights, parts of weights and constants that the nodes take."""
        used = {name for node in self.nodes for name in node.input}
        return [tensor for name, tensor in self._tensors.items() if name in used]

    def _layer_outputs(self) -> Sequence[str]:
        """Names of the outputs of each MoE layer."""
        return self._model.layer_outputs

    def _write(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        """Writes an op of the table in the way of this graph; returns its outputs, with a name for each that is ""."""
        named: dict[str, Any] = {**attributes, **PLUGIN_ATTRIBUTES}
        return self._append(helper.make_node(op, inputs, outputs, domain=DOMAIN, **named))

    def _expand(
        self, body: onnx.FunctionProto, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]
    ) -> list[str]:
        """Writes the body of a function in place of a node that calls it."""
        names = dict(zip(body.input, inputs, strict=True))
        names |= {name: given for name, given in zip(body.output, outputs, strict=True) if given}
        for inner in body.node:
            if inner.op_type == "Identity" and names[inner.input[0]] in self._weights:
                names[inner.output[0]] = names[inner.input[0]]
                continue
            node = onnx.NodeProto()
            node.CopyFrom(inner)
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    attribute.CopyFrom(helper.make_attribute(attribute.name, attributes[attribute.ref_attr_name]))
            node.input[:] = [names[name] for name in inner.input]
            node.output[:] = [names.get(name, "") for name in inner.output]
            if node.domain == DOMAIN:
                given = {attribute.name: attribute.i for attribute in node.attribute}
                made = self._op(node.op_type, node.input, node.output, given)
            else:
                made = self._append(node)
            names.update(zip(inner.output, made, strict=True))
        return [names[name] for name in body.output]

    def _append(self, node: onnx.NodeProto) -> list[str]:
        """Adds a node, with a name for it and for each of its outputs that has none; returns its outputs."""
        name = f"{self._place_of(node.input)}/{node.op_type}"
        node.name = f"{name}_{self._taken[name]}" if self._taken[name] else name
        self._taken[name] += 1
        number = f"{node.op_type}_{len(self.nodes)}"
        node.output[:] = [given or (f"{number}_{index}" if index else number) for index, given in enumerate(node.output)]
        self.nodes.append(node)
        return list(node.output)

    def _place_of(self, inputs: Sequence[str]) -> str:
        """The layer of the official tree whose weights are among the inputs; the current one where there are none."""
        layers = [posixpath.dirname(name).removeprefix("Encoder/") or name for name in inputs if name in self._weights]
        # A block is named after what follows its layer norm.
        layers = [layer for layer in layers if "LayerNorm" not in layer] or layers
        return (posixpath.commonpath(layers) or layers[0]) if layers else self._place

    def _op(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        assert attributes.keys() == OPS[op].attributes.keys()
        outer, self._place = self._place, self._place_of(inputs)
        written = self._write(op, inputs, outputs, attributes)
        self._place = outer
        if op in _BLOCKS:
            self.blocks.append((op, inputs[0], written[0]))
        return written

    def _vmoe(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: int) -> str:
        """Writes an op of the table; returns its first output."""
        return self._op(op, inputs, outputs or [""] * len(OPS[op].outputs), attributes)[0]

    def _add(self, op: str, *inputs: str, outputs: Sequence[str] = ("",), **attributes: Any) -> str:
        """Adds a node of ONNX; returns its first output."""
        return self._append(helper.make_node(op, inputs, outputs, **attributes))[0]

    def _constant(self, name: str, values: Any, dtype: Any) -> str:
        array = np.asarray(values, dtype)
        tensor = self._tensors.setdefault(name, numpy_helper.from_array(array, name))
        assert np.array_equal(numpy_helper.to_array(tensor), array)
        return name

    def _part(self, whole: str, name: str, number: int, *dims: int) -> str:
        """The part of a weight with that number, as a tensor of its own over the same bytes; returns its name."""
        span = self._weights[whole]
        length = int(STORED_BYTES[span.dtype] * math.prod(dims))
        part = Span(span.offset + number * length, length, dims, span.dtype)
        self._tensors[name] = external_tensor(name, part)
        return name

    def _forward(self) -> Iterator[str]:
        config, moe, members = self._config, self._config.moe, self._config.ensemble_size
        x = self._cut(self._embed())
        capacities = iter(self._capacities())
        routes: list[str] = []
        for i in range(config.num_layers):
            block, self._place = f"Encoder/encoderblock_{i}", f"encoderblock_{i}"
            x = self._cut(self._attention_block(f"{block}/LayerNorm_0", f"{block}/SelfAttention", x))
            if moe and i in moe.layers:
                names = [f"encoderblock_{i}/{what}" for what in self._layer_outputs()]
                routes += names
                is_first = i == moe.layers[0]
                if is_first and members > 1:  # what comes before is the same for all of them
                    x = self._add("Unsqueeze", x, self._integers(1))
                    x = self._add("Expand", x, self._integers(1, members, 1, 1))
                x = self._moe_block(block, moe, x, next(capacities, ""), names, parts_members=not is_first)
            else:
                weights, chunk = self._mlp(f"{block}/Mlp")
                x = self._vmoe("VmoeMlpBlock", x, *self._norm(f"{block}/LayerNorm_1"), *weights, hidden_chunk=chunk)
            x = self._cut(x)
        self._place = "head"
        if config.classifier in ("token", "0"):  # the norm of one token doesn't look at the others
            x = self._first_token(x)
        self._head(self._layer_norm("Encoder/encoder_norm", x))
        self.nodes[-1].output[0] = self._model.output
        yield self._model.output
        yield from routes

    def _cut(self, x: str) -> str:
        """Notes the residual stream, float32, as what goes from one part of the model to the next."""
        self.cuts.append(x)
        return x

    def _capacities(self) -> Sequence[str]:
        """The capacity of each MoE layer."""
        if "capacity" not in self._settings or not self._config.moe:
            return []
        # One Split rather than a Slice for each layer, which a small model would notice.
        count = len(self._config.moe.layers)
        split = helper.make_node("Split", ["capacity"], [""] * count, axis=0, num_outputs=count)
        return self._append(split)

    def _integers(self, *values: int) -> str:
        """int64[number of values], a shape or axes."""
        return self._constant(f"int64_{'_'.join(map(str, values))}", values, np.int64)

    def _reshape(self, x: str, *shape: int) -> str:
        return self._add("Reshape", x, self._integers(*shape))

    def _first_token(self, x: str) -> str:
        return self._add("Gather", x, self._constant("first", 0, np.int64), axis=1)

    def _layer(self, path: str) -> tuple[str, str]:
        return f"{path}/kernel", f"{path}/bias"

    def _norm(self, path: str) -> tuple[str, str]:
        return f"{path}/scale", f"{path}/bias"

    def _scales(self, *layers: str) -> list[str]:
        """The scales of dense layers, where their kernels are int8 or int4."""
        kernels = [f"{path}/kernel" for path in layers]
        return [scale_name(kernel) for kernel in kernels if weight_type(kernel, self._model.precision) in ("i8", "i4")]

    def _linear(self, path: str, x: str) -> str:
        """A dense layer of x[N,T,D]."""
        return self._vmoe("VmoeLinear", x, *self._layer(path), *self._scales(path))

    def _dense(self, path: str, x: str) -> str:
        """A dense layer of x[N,D], which is float32 in every precision."""
        kernel, bias = self._layer(path)
        return self._add("Add", self._add("MatMul", x, kernel), bias)

    def _layer_norm(self, path: str, x: str, *, has_bias: bool = True) -> str:
        scale, bias = self._norm(path)
        weights = (scale, bias) if has_bias else (scale,)
        return self._add("LayerNormalization", x, *weights, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def _repeated(self, tensor: str) -> str:
        """A parameter [1,1,D] once for each image: [N,1,D]."""
        batch = self._add("Shape", IMAGE_INPUT, start=0, end=1)
        shape = self._add("Concat", batch, self._integers(1, 1), axis=0)
        return self._add("Expand", tensor, shape)

    def _embed(self) -> str:
        config, image = self._config, IMAGE_INPUT
        (rows, columns), (height, width) = config.grid, config.patch_size
        if self._model.uint8_input:
            image = self._add("Cast", image, to=onnx.TensorProto.FLOAT)
            for op, number in (("Div", 255), ("Mul", 2), ("Sub", 1)):
                image = self._add(op, image, self._constant(f"float_{number}", number, np.float32))
        if (rows * height, columns * width) != config.image_size:
            ends = self._integers(rows * height, columns * width)
            image = self._add("Slice", image, self._integers(0, 0), ends, self._integers(1, 2))
        # A convolution whose kernel is its stride is one product of flattened patches.
        patches = self._reshape(image, -1, rows, height, columns, width, config.channels)
        patches = self._add("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
        x = self._linear("embedding", self._reshape(patches, -1, rows * columns, height * width * config.channels))
        if config.classifier == "token":
            x = self._add("Concat", self._repeated("cls"), x, axis=1)
        if config.position_emb != "none":
            x = self._add("Add", x, POSITION_EMBEDDING)
        return x

    def _attention_block(self, norm: str, path: str, x: str) -> str:
        """Self-attention with its layer norm and residual; x[N,T,D]."""
        if self._config.attention_qk_norm:
            normed, tokens = self._layer_norm(norm, x), self._config.num_tokens
            return self._add("Add", x, self._attention(path, (normed, tokens), (normed, tokens)))
        layers = [f"{path}/{name}" for name in ("query", "key", "value", "out")]
        weights = [name for layer in layers for name in self._layer(layer)]
        heads = self._config.num_heads
        return self._vmoe("VmoeAttentionBlock", x, *self._norm(norm), *weights, *self._scales(*layers), num_heads=heads)

    def _attention(self, path: str, queries: tuple[str, int], keys: tuple[str, int]) -> str:
        """Multi-head attention of queries[N,Q,D] over keys[N,T,D], each given with its Q or T."""
        heads, size = self._config.num_heads, self._config.hidden_size // self._config.num_heads

        def project(name: str, x: str, tokens: int) -> str:
            projected = self._linear(f"{path}/{name}", x)
            if not self._config.attention_qk_norm or name == "value":
                return projected
            by_head = self._reshape(projected, -1, tokens, heads, size)
            return self._reshape(self._layer_norm(f"{path}/{name}_ln", by_head, has_bias=False), -1, tokens, heads * size)

        projections = [project(name, *x) for name, x in (("query", queries), ("key", keys), ("value", keys))]
        bf16 = PRECISIONS[self._model.precision].dense != "float"
        return self._linear(f"{path}/out", self._vmoe("VmoeAttention", *projections, num_heads=heads, bf16=int(bf16)))

    def _mlp(self, path: str) -> tuple[list[str], int]:
        """Weights, biases and scales of an MLP in the order of its ops, and its `hidden_chunk`."""
        layers = [f"{path}/Dense_{i}" for i in (0, 1)]
        kernel = f"{layers[0]}/kernel"
        chunk = hidden_chunk(self._weights[kernel].shape[-1], weight_type(kernel, self._model.precision))
        weights = [name for layer in layers for name in self._layer(layer)]
        return [*weights, *self._scales(*layers)], chunk

    def _moe_block(
        self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str], *, parts_members: bool
    ) -> str:
        """A MoE layer with its layer norm and residual: x[N,T,D], and `outputs` by their names.

        Of an ensemble x is [N,M,T,D], which `parts_members` makes of [N * M,T,D].
        """
        self._place = f"{block.removeprefix('Encoder/')}/Moe"
        # In a group the members of a token stand one after another, and those of an image everywhere else.
        members, tokens, width = self._config.ensemble_size, self._config.num_tokens, self._config.hidden_size
        group = self._model.group_tokens
        if members > 1:
            x = self._reshape(x, -1, members, tokens, width) if parts_members else x
            x = self._add("Transpose", x, perm=[0, 2, 1, 3])
        if members > 1 or group != tokens:
            x = self._reshape(x, -1, group, width)
        routed = {"top-k": self._top_k, "experts-choice": self._experts_choice, "soft": self._soft}[moe.routing.kind]
        y = routed(block, moe, x, capacity, outputs)
        if members > 1:
            y = self._add("Transpose", self._reshape(y, -1, tokens, members, width), perm=[0, 2, 1, 3])
        if members > 1 or group != tokens:
            y = self._reshape(y, -1, tokens, width)
        return y

    def _top_k(self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str]) -> str:
        """Top-K routing, dispatch, experts and combine for groups x[G,S,D], with layer norm and residual."""
        norm, router = self._norm(f"{block}/LayerNorm_1"), f"{block}/Moe/Router/dense/kernel"
        expert, kept, weight = outputs
        slot = expert.replace("/expert", "/slot")
        settings, routes = (capacity, *self._settings[1:]), [slot, weight, "", expert]
        if self._config.ensemble_size > 1:
            gates = self._member_gates(self._layer_norm(f"{block}/LayerNorm_1", x), router)
            routes = self._op("VmoeRoute", [gates, *settings], routes, {})
        else:
            routes = self._op("VmoeRouterBlock", [x, *norm, router, *settings], routes, {})
        y = self._expert_block(block, moe, x, routes[:3])
        self._kept(slot, kept)
        return y

    def _experts_choice(self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str]) -> str:
        """The same with experts that choose their tokens: each expert is a choice of each token, with its gate as weight."""
        kept, gates = outputs
        normed = self._layer_norm(f"{block}/LayerNorm_1", x)
        scores = self._add("MatMul", normed, f"{block}/Moe/Router/dense/kernel")
        self._add("Softmax", scores, outputs=[gates], axis=-1)
        slot, src = self._op("VmoeChooseTokens", [gates, capacity], ["", ""], {})
        y = self._expert_block(block, moe, x, (slot, gates, src))
        self._kept(slot, kept)
        return y

    def _soft(self, block: str, moe: MoeConfig, x: str, _: str, outputs: Sequence[str]) -> str:
        """The same with experts that work on mixtures of tokens (Soft MoE), which has nothing to set."""
        dispatch, combine = outputs
        normed = self._layer_norm(f"{block}/LayerNorm_1", x)
        router, bf16 = f"{block}/Moe/Router", int(moe.dispatch_bf16)
        self._vmoe("VmoeSoftRouter", normed, f"{router}/mu", f"{router}/scale", outputs=outputs)
        weights, chunk = self._mlp(f"{block}/Moe/Mlp")
        mixtures = self._vmoe("VmoeSoftDispatch", normed, dispatch, dispatch_bf16=bf16)
        # It is tokens and what the experts make that are rounded, not their mixtures.
        out = self._vmoe("VmoeExpertMlp", mixtures, *weights, dispatch_bf16=0, hidden_chunk=chunk)
        return self._add("Add", x, self._vmoe("VmoeSoftCombine", out, combine, dispatch_bf16=bf16))

    def _expert_block(self, block: str, moe: MoeConfig, x: str, routes: Sequence[str]) -> str:
        weights, chunk = self._mlp(f"{block}/Moe/Mlp")
        norm, bf16 = self._norm(f"{block}/LayerNorm_1"), int(moe.dispatch_bf16)
        return self._vmoe("VmoeExpertBlock", x, *norm, *routes, *weights, dispatch_bf16=bf16, hidden_chunk=chunk)

    def _kept(self, slot: str, kept: str) -> None:
        self._add("GreaterOrEqual", slot, self._constant("no_slot_below", 0, np.int32), outputs=[kept])

    def _member_gates(self, x: str, router: str) -> str:
        """Gates[G,S,E] of x[G,S,D], members of a token one after another: each member's are 0 but for its own experts."""
        members, experts, tokens = self._config.ensemble_size, self._weights[router].shape[1], self._model.group_tokens
        owner = np.arange(experts) // (experts // members)
        is_own = self._constant(f"is_own_expert_of_{experts}", owner == np.arange(members)[:, None], np.bool_)
        by_member = self._reshape(self._add("MatMul", x, router), -1, tokens // members, members, experts)
        scores = self._add("Where", is_own, by_member, self._constant("minus_infinity", -np.inf, np.float32))
        return self._reshape(self._add("Softmax", scores, axis=-1), -1, tokens, experts)

    def _head(self, x: str) -> None:
        config, output, members = self._config, self._model.output, self._config.ensemble_size
        if config.classifier == "gap":
            # A mean as a product: runtimes add up a plain one in another order where there is but one image.
            tokens = config.num_tokens
            mean = self._constant("mean", np.full((1, 1, tokens), 1 / tokens), np.float32)
            x = self._first_token(self._add("MatMul", mean, x))
        elif config.classifier == "map":
            x = self._map_head(x)
        if config.representation_size:
            x = self._add("Tanh", self._dense("pre_logits", x))
        if output == "features":
            return
        x = self._dense("head", x)
        if members > 1:
            x = self._reshape(x, -1, members, config.num_classes or 0)
            if output == "logits":
                total = self._add("ReduceLogSumExp", self._add("LogSoftmax", x, axis=-1), self._integers(1), keepdims=0)
                self._add("Sub", total, self._constant("log_members", math.log(members), np.float32))

    def _map_head(self, x: str) -> str:
        path = "MapHead/MultiHeadDotProductAttention"
        y = self._attention(path, (self._repeated("MapHead/probe"), 1), (x, self._config.num_tokens))
        weights, chunk = self._mlp("MapHead/Mlp")
        mlp = self._vmoe("VmoeDenseMlp", self._layer_norm("MapHead/LayerNorm", y), *weights, hidden_chunk=chunk)
        return self._first_token(self._add("Add", y, mlp))
