"""The content of an export: the model, and the choices that determine its graphs."""

from __future__ import annotations

from dataclasses import dataclass

from vmoe_export.model.grouping import Grouping
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.precision import ExportPrecision
from vmoe_runtime.bundle.manifest import Output, layer_output
from vmoe_runtime.routing_kinds import LAYER_OUTPUTS, TOKEN_OUTPUT


@dataclass(frozen=True)
class ExportedModel:
    """A V-MoE or dense ViT in the form that the graphs of a bundle compute.

    Attributes:
        config: the description of the model.
        grouping: the routing groups. A batch holds whole groups only.
        output: "logits"; "features" (the input of the head); "tokens" (all tokens after the last norm); or "members"
            (the logits of each member of an E3 ensemble). For an E3, "logits" are the official prediction: the
            logarithm of the members' mean probability.
        uint8_input: whether the graph takes uint8 images and scales them to [-1, 1] itself.
        precision: the type in which the weights are stored and the large products are computed.
        layers: numbers of the blocks after which the residual stream is an additional output. Ensembles have no such
            outputs.
    """

    config: ModelConfig
    grouping: Grouping
    output: Output = "logits"
    uint8_input: bool = False
    precision: ExportPrecision = "fp32"
    layers: tuple[int, ...] = ()

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """The shape of each graph output for one image, by name. Routing outputs are left out.

        See `Manifest.answers`.
        """
        config, classes = self.config, self.config.num_classes or 0
        by_token = config.num_tokens, config.hidden_size
        shapes: dict[Output, tuple[int, ...]] = {
            "logits": (classes,),
            "members": (config.ensemble_size, classes),
            "features": (config.feature_size,),
            "tokens": by_token,
        }
        return {self.output: shapes[self.output], **{layer_output(block): by_token for block in self.layers}}

    @property
    def layer_outputs(self) -> tuple[str, ...]:
        """The routing outputs of each MoE layer, in order. See `vmoe_runtime.routing_kinds`."""
        moe = self.config.moe
        return (*LAYER_OUTPUTS[moe.routing.kind], *((TOKEN_OUTPUT,) if self.merges else ())) if moe else ()

    @property
    def merges(self) -> bool:
        """Whether blocks can merge tokens.

        They can't if tokens or residual streams are outputs, or if `ModelConfig.merges` returns False.
        """
        return self.output != "tokens" and not self.layers and self.config.merges(self.grouping.tokens)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the model in execution order: "embedding", "encoderblock_0/SelfAttention" ... "head"."""
        moe = self.config.moe
        second = ["Moe" if moe and i in moe.layers else "Mlp" for i in range(self.config.num_layers)]
        blocks = [f"encoderblock_{i}/{name}" for i, last in enumerate(second) for name in ("SelfAttention", last)]
        return ("embedding", *blocks, "head")

    @property
    def class_token_parts(self) -> tuple[str, ...]:
        """The last encoder parts, which process only the class token of each image.

        No later part reads another token.
        """
        if (
            self.config.classifier not in ("token", "0")
            or self.output == "tokens"
            or self.config.num_layers - 1 in self.layers
        ):
            return ()
        attention, last = self.parts[-3:-1]
        return (last,) if last.endswith("/Moe") else (attention, last)
