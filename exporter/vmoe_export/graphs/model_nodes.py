"""Write the nodes of a model that an `ExportedModel` describes. The nodes are vmoe ops and standard ONNX ops.

This module walks through the model and writes ops of the op table. All graphs of a bundle use this walk, but each
kind of graph writes the ops in its own form:

- `ModelNodes` writes nodes of the domain vmoe,
- `StandardNodes` writes standard ONNX nodes,
- `TensorRtNodes` writes the nodes that TensorRT fuses best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from vmoe_export.bundle.weights_file import Span
from vmoe_export.graphs.class_dispatch import class_dispatch
from vmoe_export.graphs.graph_writer import GraphWriter
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import MoeConfig
from vmoe_export.model.parameters import POSITION_EMBEDDING, ROTARY, front_parameters, scale_name
from vmoe_export.ops.body_options import (
    GATE_INPUTS,
    HIDDEN_NORM_INPUTS,
    MERGING_INPUTS,
    MIXED_NORM_INPUTS,
    ROTATION_INPUTS,
    BodyOptions,
)
from vmoe_export.ops.functions import function_bodies
from vmoe_export.ops.table import ACTIVATIONS, LAYER_NORM_EPSILON, OPS
from vmoe_export.precision import PRECISIONS, hidden_chunk, weight_type
from vmoe_export.weight_types import BFLOAT16, WeightType
from vmoe_runtime.bundle.manifest import IMAGE_INPUT, layer_output
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT
from vmoe_runtime.settings import MERGE, OFFICIAL_SETTINGS, POLICIES


class ModelNodes(GraphWriter):
    """The nodes of a model, written by `write_model`. The slots of a MoE layer are named `<block>/slot`.

    Args:
        model: the model to compute.
        weights: the position of each parameter in the weights file.
        settings: the names of the graph inputs that carry settings.

    Attributes:
        model: the model to compute.
        functions: the ONNX functions written for this model, by the name of the op that each function computes.
        cuts: for each cut between two consecutive `model.parts`, the names of the values passed to the next part. The
            values are the residual stream and, if tokens are merged, the tokens' sizes, the position of each original
            token, and any rotary coordinates.
        outputs: the names of the model's answers, followed by the names of the outputs of each MoE layer.
        left: for each block with a MoE layer, the number of tokens that merging has left in a group, or a name for that
            number. The mapping is empty if the model does not merge tokens.
    """

    def __init__(self, model: ExportedModel, weights: Mapping[str, Span], settings: Sequence[str] = ()) -> None:
        super().__init__(weights)
        self.model, self._config, self._settings = model, model.config, settings
        self._merges = MERGE in settings
        self._beside: dict[str, str] = {}  # values that ops read in addition to the residual stream, by input name
        self._class_parts = [f"Encoder/{part}" for part in model.class_token_parts]  # parts that return only the class token
        self.functions = {body.name: body for body in function_bodies(self._body_options())}
        self.cuts: list[tuple[str, ...]] = []
        self.outputs: list[str] = [*model.answers]
        self.left: dict[str, int | str] = {}

    def _body_options(self) -> BodyOptions:
        """Return the options of the model's ops: the weight types, the numbers of chunks and the optional inputs."""
        config, moe, numbers = self._config, self._config.moe, PRECISIONS[self.model.precision]

        def chunks(hidden: int, weights: WeightType) -> int:
            return hidden // (hidden_chunk(hidden, weights) or hidden)

        bf16 = bool(moe and moe.dispatch_bf16)
        is_soft = bool(moe and moe.routing.kind == "soft")
        return BodyOptions(
            dense=numbers.dense,
            experts=numbers.experts,
            dispatch_bf16=bf16 and not is_soft,
            soft_bf16=bf16 and is_soft,
            dense_chunks=chunks(config.mlp_dim, numbers.dense),
            expert_chunks=chunks(moe.mlp_dim, numbers.experts) if moe else 1,
            given={
                *(POLICIES if "pool" in self._settings else ()),
                *(MERGING_INPUTS if MERGE in self._settings else ()),
                *(ROTATION_INPUTS if config.rotary else ()),
                *(() if config.rms_norm else ("ln_bias",)),
                *(MIXED_NORM_INPUTS if config.attention_norm else ()),
                *(GATE_INPUTS if config.gated_mlp else ()),
                *(HIDDEN_NORM_INPUTS if config.mlp_norm else ()),
            },
            prefix=config.prefix_tokens,
            activation=config.activation,
        )

    def write_model(self) -> None:
        """Write the nodes of the whole model."""
        moe = self._config.moe
        x = self._embed()
        if self._config.rotary:
            self._beside |= {"coordinates": self._repeated(ROTARY[0]), "frequencies": ROTARY[1]}
        if self._merges:
            self._beside |= self._unmerged()
        x = self._cut(x)
        capacities = iter(self._capacities())
        for i in range(self._config.num_layers):
            self._place = f"encoderblock_{i}"
            block = f"Encoder/{self._place}"
            if moe is not None and i in moe.layers:
                x = self._cut(self._attention_block(block, x, f"{self._place}/{TOKEN_OUTPUT}"))
                x = self._moe_block(block, moe, x, next(capacities, ""), is_first=i == moe.layers[0])
            else:
                x = self._cut(self._attention_block(block, x, ""))
                weights = self._norm(f"{block}/LayerNorm_1") | self._mlp(f"{block}/Mlp")
                (x,) = self._call("VmoeMlpBlock", {"x": x, **weights})
            x = self._cut(x)
            if i in self.model.layers:
                self._unscaled(x, layer_output(i))
        self._place = "head"
        self._head(x)
        self.nodes[-1].output[0] = self.model.output

    def _layer_outputs(self) -> Sequence[str]:
        """Return the names of a MoE layer's outputs, except the output that merging adds."""
        return [name for name in self.model.layer_outputs if name != TOKEN_OUTPUT]

    def _group_left(self) -> int | str:
        """Return the number of tokens that merging has left in a group so far, or a name for that number."""
        return f"{self._place}_tokens"

    def _cut(self, x: str) -> str:
        """Record a cut between two parts of the model, and return `x`.

        The cut consists of the float32 residual stream `x` and the values that merging carries along with it.
        """
        self.cuts.append((x, *(self._beside[name] for name in self._carried())))
        return x

    def _carried(self) -> list[str]:
        """Return the names of the op inputs that merging changes, except the residual stream."""
        return [name for name in ("sizes", "token", "coordinates") if self._merges and name in self._beside]

    def _unmerged(self) -> dict[str, str]:
        """Write the initial values of the inputs for merging, and return the values' names by input.

        Before any merging, each token has size 1 and its own position.
        """
        tokens = self._config.num_tokens
        batch = self._add("Shape", IMAGE_INPUT, start=0, end=1)
        shape = self._add("Concat", batch, self._integers(tokens), axis=0)
        ends = (self._constant(f"int32_{number}", number, np.int32) for number in (0, tokens, 1))
        row = self._add("Range", *ends)
        sizes = self._add("Expand", self._constant("one_token", 1, np.float32), shape)
        return {"sizes": sizes, "token": self._add("Expand", row, shape), MERGE: MERGE}

    def _capacities(self) -> Sequence[str]:
        """Return the name of each MoE layer's capacity value."""
        if "capacity" not in self._settings or not self._config.moe:
            return []
        # One Split for all layers is faster than one Slice per layer. In a small model, the difference is noticeable.
        count = len(self._config.moe.layers)
        split = helper.make_node("Split", ["capacity"], [""] * count, axis=0, num_outputs=count)
        return self._append(split)

    def _op(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]) -> list[str]:
        activation = ACTIVATIONS.index(self._config.activation)
        own = {"activation": activation} if activation and "activation" in OPS[op].attributes else {}
        return super()._op(op, inputs, outputs, {**attributes, **own})

    def _call(self, op: str, inputs: Mapping[str, str], outputs: Sequence[str] = ("",), **attributes: int) -> list[str]:
        """Write an op that takes weights, and return the names of its outputs.

        The op gets only those `inputs` that the op table lists for it.
        """
        given = [inputs.get(value.name, "") for value in OPS[op].inputs]
        while not given[-1]:
            given.pop()
        if "hidden_chunk" in OPS[op].attributes:
            kernel = inputs["w1"]
            chunk = hidden_chunk(self._weights[kernel].shape[-1], weight_type(kernel, self.model.precision))
            attributes["hidden_chunk"] = chunk
        return self._op(op, given, outputs, attributes)

    def _layer(self, path: str, which: str = "") -> dict[str, str]:
        """Map a dense layer's op inputs to the names of its kernel, its bias and, if the kernel has scales, its scales.

        `which` distinguishes the layers of an op that has several. For example, "q" gives the inputs `wq` and `bq`.
        """
        kernel = f"{path}/kernel"
        scales = {f"w{which}_scale": scale_name(kernel)} if weight_type(kernel, self.model.precision).scales else {}
        return {f"w{which}": kernel, f"b{which}": f"{path}/bias", **scales}

    def _norm(self, path: str, which: str = "ln") -> dict[str, str]:
        """Map a norm's op inputs to the names of its parameters: the scale and, if the norm has one, the bias."""
        return {f"{which}_{leaf}": name for leaf in ("scale", "bias") if (name := f"{path}/{leaf}") in self._weights}

    def _linear(self, path: str, x: str) -> str:
        """Write a dense layer with the input x[N,T,D]."""
        return self._call("VmoeLinear", {"x": x, **self._layer(path)})[0]

    def _dense(self, path: str, x: str) -> str:
        """Write a dense layer with the input x[N,D]. The layer is float32 in every precision."""
        return self._add("Add", self._add("MatMul", x, f"{path}/kernel"), f"{path}/bias")

    def _layer_norm(self, path: str, x: str, *, rms: bool = False, epsilon: float = LAYER_NORM_EPSILON) -> str:
        """Write a layer norm of x[...,D], or an RMS norm if `rms` is set."""
        weights = self._norm(path).values()
        if not rms:
            return self._add("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)
        square = self._add("ReduceMean", self._add("Mul", x, x), self._integers(-1))
        length = self._add("Sqrt", self._add("Add", square, self._constant("norm_epsilon", epsilon, np.float32)))
        return self._add("Mul", self._add("Div", x, length), *weights)

    def _repeated(self, tensor: str, rows: str = IMAGE_INPUT) -> str:
        """Repeat a parameter [1,R,D] N times, which gives [N,R,D].

        N is the number of rows of the value named by `rows`. By default, N is the number of images.
        """
        shape = self._add("Concat", self._add("Shape", rows, start=0, end=1), self._integers(1, 1), axis=0)
        return self._add("Expand", tensor, shape)

    def _embed(self) -> str:
        config, image = self._config, IMAGE_INPUT
        (rows, columns), (height, width) = config.grid, config.patch_size
        if self.model.uint8_input:
            image = self._add("Cast", image, to=onnx.TensorProto.FLOAT)
            for op, number in (("Div", 255), ("Mul", 2), ("Sub", 1)):
                image = self._add(op, image, self._constant(f"float_{number}", number, np.float32))
        if (rows * height, columns * width) != config.image_size:
            ends = self._integers(rows * height, columns * width)
            image = self._add("Slice", image, self._integers(0, 0), ends, self._integers(1, 2))
        # The patches do not overlap, so the patch convolution is a single matrix product of the flattened patches.
        patches = self._reshape(image, -1, rows, height, columns, width, config.channels)
        patches = self._add("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
        x = self._linear("embedding", self._reshape(patches, -1, rows * columns, height * width * config.channels))
        if config.patch_norm:
            x = self._layer_norm("patch_norm", x, rms=config.rms_norm)
        if front := front_parameters(config):
            x = self._add("Concat", *map(self._repeated, front), x, axis=1)
        if config.position_emb != "none":
            x = self._add("Add", x, POSITION_EMBEDDING)
        return self._layer_norm("embedding_norm", x) if config.embedding_norm else x

    def _attention_block(self, block: str, x: str, token: str) -> str:
        """Write self-attention of x[N,T,D] with its layer norm and residual.

        The result is [N,T,D], or [N,1,D] if only the class token matters. If tokens are merged, the last step of the block
        is to merge them, and the output named `token` holds the tokens' new positions.
        """
        norm, path = f"{block}/LayerNorm_0", f"{block}/SelfAttention"
        self._is_class_token = class_token = path in self._class_parts
        if self._config.attention_qk_norm:
            normed = self._layer_norm(norm, x, rms=self._config.rms_norm)
            x, queries = (self._first_token(each, keepdims=True) if class_token else each for each in (x, normed))
            mixed, keys = self._attention(path, queries, normed)
            y = self._add("Add", x, mixed)
            if self._merges and not class_token:
                y = self._merged("VmoeMerge", {"x": y, "k": keys}, token)
                self.blocks.append(("VmoeAttentionBlock", False, x, y))
            return y
        inputs = {"x": x, **self._norm(norm), **self._norm(f"{path}/LayerNorm", "mixed_ln")}
        for name, which in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
            inputs |= self._layer(f"{path}/{name}", which)
        if class_token:
            return self._call("VmoeClassAttentionBlock", inputs | self._beside, num_heads=self._config.num_heads)[0]
        return self._merged("VmoeAttentionBlock", inputs, token)

    def _merged(self, op: str, inputs: Mapping[str, str], token: str) -> str:
        """Write an op that may merge tokens, and return the name of its first output.

        If the op merges tokens, `token` becomes the name of its output that holds the tokens' new positions.
        """
        carried, numbers = self._carried(), {"num_heads": self._config.num_heads, "prefix": self._config.prefix_tokens}
        outputs = ["", *(token if name == "token" else "" for name in carried)]
        y, *left = self._call(op, {**inputs, **self._beside}, outputs, **numbers)
        self._beside |= zip(carried, left, strict=True)
        return y

    def _attention(self, path: str, queries: str, keys: str) -> tuple[str, str]:
        """Write multi-head attention of queries[N,Q,D] over keys[N,T,D].

        Returns:
            The names of the attention output and of the projected keys.
        """
        config, is_pool = self._config, path.startswith("MapHead")
        heads = config.heads_of(path)

        def project(name: str, x: str) -> str:
            if name == "query" and is_pool and config.bare_map_head:
                return x
            projected, norm = self._linear(f"{path}/{name}", x), f"{path}/{name}_ln"
            if not config.has_qk_norm(path) or name == "value":
                return projected
            if config.wide_qk_norm:
                return self._layer_norm(norm, projected, rms=True)
            by_head = self._reshape(projected, 0, 0, heads, config.hidden_size // heads)
            return self._reshape(self._layer_norm(norm, by_head), 0, 0, config.hidden_size)

        q, k, v = (project(name, x) for name, x in (("query", queries), ("key", keys), ("value", keys)))
        if config.rotary and not is_pool:
            coordinates, frequencies = (self._beside[name] for name in ROTATION_INPUTS)
            of_queries = self._first_token(coordinates, keepdims=True) if self._is_class_token else coordinates
            q = self._vmoe("VmoeRotate", q, of_queries, frequencies, num_heads=heads)
            k = self._vmoe("VmoeRotate", k, coordinates, frequencies, num_heads=heads)
        bf16 = PRECISIONS[self.model.precision].attention is BFLOAT16
        sizes = [self._beside["sizes"]] if self._merges else []
        mixed = self._vmoe("VmoeAttention", q, k, v, *sizes, num_heads=heads, bf16=int(bf16))
        if config.attention_norm and not is_pool:
            mixed = self._layer_norm(f"{path}/LayerNorm", mixed)
        return self._linear(f"{path}/out", mixed), k

    def _mlp(self, path: str) -> dict[str, str]:
        """Map an MLP's op inputs to the names of its weights."""
        weights = self._layer(f"{path}/Dense_0", "1") | self._layer(f"{path}/Dense_1", "2")
        gate = self._layer(f"{path}/Gate", "g") if self._config.gated_mlp else {}
        return weights | gate | self._norm(f"{path}/LayerNorm", "hidden_ln")

    def _moe_block(self, block: str, moe: MoeConfig, x: str, capacity: str, *, is_first: bool) -> str:
        """Write a MoE layer with its layer norm and residual.

        The input of the layer is x[N,T,D]. After the first MoE layer of an ensemble of M members, it is x[N * M,T,D]
        instead.

        Returns:
            The new residual stream. If the head reads only the class token, the last block of the model returns only the
            class token.
        """
        outputs = [f"{self._place}/{what}" for what in self._layer_outputs()]
        self.outputs += outputs
        if self._merges:
            self.outputs.append(f"{self._place}/{TOKEN_OUTPUT}")
            self.left[self._place] = self._group_left()
        # Within a group, the members' copies of a token are adjacent. Outside groups, the members' copies of an entire image
        # are adjacent.
        members, tokens, width = self._config.ensemble_size, self._config.num_tokens, self._config.hidden_size
        group = self.model.grouping.tokens
        if members > 1 and is_first:  # all members share the layers before this one
            x = self._add("Unsqueeze", x, self._integers(1))
            x = self._add("Expand", x, self._integers(1, members, 1, 1))
        self._place = f"{self._place}/Moe"
        if members > 1:
            x = x if is_first else self._reshape(x, -1, members, tokens, width)
            x = self._add("Transpose", x, perm=[0, 2, 1, 3])
        images = x
        if self._merges and group != tokens:
            x = self._grouped(x, images, group // tokens)
        elif members > 1 or group != tokens:
            x = self._reshape(x, -1, group, width)
        routed = {"top-k": self._top_k, "experts-choice": self._experts_choice, "soft": self._soft}[moe.routing.kind]
        y = routed(block, moe, x, capacity, outputs)
        if members > 1:
            y = self._add("Transpose", self._reshape(y, -1, tokens, members, width), perm=[0, 2, 1, 3])
        if group != tokens and self._merges and not self._is_class_token:
            y = self._grouped(y, images, 1)
        elif members > 1 or (group != tokens and not self._is_class_token):
            y = self._reshape(y, -1, tokens, width)
        if f"{block}/Moe" in self._class_parts and not self._is_class_token:
            y = self._first_token(y, keepdims=True)
        return y

    def _grouped(self, x: str, like: str, images: int) -> str:
        """Reshape tokens x[...,D] to groups of `images` images.

        Each image has T tokens, which is the number of tokens that merging has left in like[N,T,D].
        """
        tokens = self._add("Mul", self._add("Shape", like, start=1, end=2), self._integers(images))
        shape = [self._integers(-1), tokens, self._integers(self._config.hidden_size)]
        return self._add("Reshape", x, self._add("Concat", *shape, axis=0))

    def _top_k(self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str]) -> str:
        """Write an MoE layer with top-K routing for groups x[G,S,D].

        The nodes compute the layer norm, routing, dispatch, experts, combine and the residual.
        """
        norm, router = f"{block}/LayerNorm_1", f"{block}/Moe/Router/dense/kernel"
        expert, kept, weight = outputs
        slot = expert.replace("/expert", "/slot")
        settings = (capacity, *(name for name in self._settings[1:] if name in (*OFFICIAL_SETTINGS, *POLICIES)))
        routes = [slot, weight, "", expert]
        if self._config.ensemble_size > 1:
            gates = self._member_gates(self._layer_norm(norm, x), router)
            routes = self._op("VmoeRoute", [gates, *settings], routes, {})
        else:
            raw = "" if self._config.normalizes_weights else weight
            inputs = [x, *self._norm(norm).values(), router, *settings]
            routes = self._op("VmoeRouterBlock", inputs, [slot, raw, *routes[2:]], {})
            if self._config.normalizes_weights:
                routes[1] = self._add(
                    "Div", routes[1], self._add("ReduceSum", routes[1], self._integers(2)), outputs=[weight]
                )
        self._kept(slot, kept)
        return self._expert_block(block, moe, x, routes[:3], kept, expert)

    def _experts_choice(self, block: str, moe: MoeConfig, x: str, capacity: str, outputs: Sequence[str]) -> str:
        """Write an expert-choice layer.

        Every expert counts as a choice of every token. The weight of a choice is the expert's gate.
        """
        kept, gates = outputs
        normed = self._layer_norm(f"{block}/LayerNorm_1", x)
        scores = self._add("MatMul", normed, f"{block}/Moe/Router/dense/kernel")
        self._add("Softmax", scores, outputs=[gates], axis=-1)
        slot, src = self._op("VmoeChooseTokens", [gates, capacity], ["", ""], {})
        self._kept(slot, kept)
        return self._expert_block(block, moe, x, (slot, gates, src), kept)

    def _soft(self, block: str, moe: MoeConfig, x: str, _: str, outputs: Sequence[str]) -> str:
        """Write a Soft MoE layer, in which experts process mixtures of tokens. A Soft MoE layer has no settings."""
        dispatch, combine = outputs
        normed = self._layer_norm(f"{block}/LayerNorm_1", x)
        router, bf16 = f"{block}/Moe/Router", int(moe.dispatch_bf16)
        self._vmoe("VmoeSoftRouter", normed, f"{router}/mu", f"{router}/scale", outputs=outputs)
        mixtures = self._vmoe("VmoeSoftDispatch", normed, dispatch, dispatch_bf16=bf16)
        # Round the tokens and the experts' outputs to bfloat16, but not the mixtures.
        (out,) = self._call("VmoeExpertMlp", {"buf": mixtures, **self._mlp(f"{block}/Moe/Mlp")}, dispatch_bf16=0)
        return self._add("Add", x, self._vmoe("VmoeSoftCombine", out, combine, dispatch_bf16=bf16))

    def _expert_block(self, block: str, moe: MoeConfig, x: str, routes: Sequence[str], *kept: str) -> str:
        """Write dispatch, experts and combine.

        `kept` holds the names of one or two outputs of the layer: "kept" and, except with expert choice, "expert". If only
        class tokens are processed, the new routes for the class tokens are computed from these outputs.
        """
        if f"{block}/Moe" in self._class_parts and self._config.ensemble_size == 1:
            self._is_class_token = True
            body = class_dispatch(moe.experts[-1], self._tokens_of_image(), experts_choose=len(kept) == 1)
            x, *routes = self._expand(body, [x, routes[1], *kept], [""] * 4, {})
        weights = self._norm(f"{block}/LayerNorm_1") | self._mlp(f"{block}/Moe/Mlp")
        inputs = {"x": x, **weights, **dict(zip(("slot", "weight", "src"), routes, strict=True))}
        return self._call("VmoeExpertBlock", inputs, dispatch_bf16=int(moe.dispatch_bf16))[0]

    def _tokens_of_image(self) -> str:
        """Return lines in ONNX's text format that compute `tokens`, the number of tokens per image.

        If each group is one image, return "", because no such lines are needed.
        """
        group, own = self.model.grouping.tokens, self._config.num_tokens
        if group == own:
            return ""
        if not self._merges:
            return f"tokens = Constant <value_ints = [{own}]> ()"
        return f"""
        group_images = Constant <value_ints = [{group // own}]> ()
        group_tokens = Shape <start = 1, end = 2> (x)
        tokens = Div (group_tokens, group_images)
        """

    def _kept(self, slot: str, kept: str) -> None:
        self._add("GreaterOrEqual", slot, self._constant("no_slot_below", 0, np.int32), outputs=[kept])

    def _member_gates(self, x: str, router: str) -> str:
        """Write the gates of an ensemble's tokens, and return the name of the result gates[G,S,E].

        In x[G,S,D], the members' copies of a token are adjacent. For each member's tokens, the gates of the other members'
        experts are 0.
        """
        members, experts, tokens = self._config.ensemble_size, self._weights[router].shape[1], self.model.grouping.tokens
        owner = np.arange(experts) // (experts // members)
        is_own = self._constant(f"is_own_expert_of_{experts}", owner == np.arange(members)[:, None], np.bool_)
        by_member = self._reshape(self._add("MatMul", x, router), -1, tokens // members, members, experts)
        scores = self._add("Where", is_own, by_member, self._constant("minus_infinity", -np.inf, np.float32))
        return self._reshape(self._add("Softmax", scores, axis=-1), -1, tokens, experts)

    def _head(self, x: str) -> None:
        config, members = self._config, self._config.ensemble_size
        if self.model.output == "tokens":
            if config.norm_after_pooling or not config.encoder_norm:  # the model has no norm that applies to tokens
                self._unscaled(x, self.model.output)
            else:
                self._layer_norm("Encoder/encoder_norm", x, rms=config.rms_norm)
            return
        x = self._normed_pool(x)
        if config.representation_size and config.representation_tanh:
            x = self._add("Tanh", self._dense("pre_logits", x))
        elif config.representation_size:
            x = self._dense("projection", x)
        if config.normalize:
            x = self._add("LpNormalization", x, axis=-1, p=2)
        if self.model.output == "features":
            return
        x = self._dense("head", x)
        if members == 1:
            return
        x = self._reshape(x, -1, members, config.num_classes or 0)
        if self.model.output == "logits":
            total = self._add("ReduceLogSumExp", self._add("LogSoftmax", x, axis=-1), self._integers(1), keepdims=0)
            self._add("Sub", total, self._constant("log_members", math.log(members), np.float32))

    def _unscaled(self, x: str, output: str = "") -> str:
        """Divide the residual stream by the model's `stream_scale`.

        If the result is a graph output, `output` is its name.
        """
        if (scale := self._config.stream_scale) != 1:
            return self._add("Mul", x, self._constant("stream_size", 1 / scale, np.float32), outputs=[output])
        return self._add("Identity", x, outputs=[output]) if output else x

    def _normed_pool(self, x: str) -> str:
        """Apply the last layer norm to x[N,T,D] and pool the tokens to [N,D], which is the input of the head."""
        if self._config.classifier in ("token", "0"):  # each token is normalized separately, so one token is enough
            x = self._first_token(x)
        if not self._config.encoder_norm:
            return self._pool(self._unscaled(x))
        if self._config.norm_after_pooling:
            return self._layer_norm("Encoder/encoder_norm", self._pool(x), rms=self._config.rms_norm)
        return self._pool(self._layer_norm("Encoder/encoder_norm", x, rms=self._config.rms_norm))

    def _pool(self, x: str) -> str:
        config = self._config
        match config.classifier:
            case "token+token":
                return self._reshape(self._slice(x, 0, 2), -1, 2 * config.hidden_size)
            case "token+gap":
                return self._add("Concat", self._first_token(x), self._mean(x), axis=-1)
            case "gap":
                return self._mean(x)
            case "map":
                if config.front_tokens and not config.map_front:
                    x = self._slice(x, config.front_tokens, config.num_tokens)
                    if self._merges:
                        self._beside["sizes"] = self._slice(self._beside["sizes"], config.front_tokens, config.num_tokens)
                return self._map_head(x)
            case _:
                return x

    def _mean(self, x: str) -> str:
        """Write the mean of the patch tokens of x[N,T,D]. Tokens that precede the patches are left out."""
        # Write the mean as a matrix product. With ReduceMean, runtimes add up the tokens in an order that differs between a
        # single image and a larger batch.
        front, patches = self._config.front_tokens, math.prod(self._config.grid)
        if self._merges:
            behind = (x, self._beside["sizes"])
            x, sizes = (self._slice(each, front, self._config.num_tokens) if front else each for each in behind)
            share = self._constant("share", 1 / patches, np.float32)
            mean = self._add("Mul", self._add("Unsqueeze", sizes, self._integers(1)), share)
        else:
            mean = self._constant("mean", np.repeat([0, 1 / patches], [front, patches])[None, None], np.float32)
        return self._first_token(self._add("MatMul", mean, x))

    def _map_head(self, x: str) -> str:
        path = "MapHead/MultiHeadDotProductAttention"
        y, _ = self._attention(path, self._repeated("MapHead/probe", x), x)
        if self._config.bare_map_head:
            return self._first_token(y)
        normed = self._layer_norm("MapHead/LayerNorm", y, epsilon=self._config.map_epsilon)
        (mlp,) = self._call("VmoeDenseMlp", {"x": normed, **self._mlp("MapHead/Mlp")})
        return self._first_token(self._add("Add", y, mlp))
