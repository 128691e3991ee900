"""What an export writes: the model and the choices that its graphs are made for."""

from __future__ import annotations

from dataclasses import dataclass

from vmoe_export.model.grouping import Grouping
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.precision import ExportPrecision
from vmoe_runtime.bundle.manifest import Output, layer_output
from vmoe_runtime.routing_kinds import LAYER_OUTPUTS, TOKEN_OUTPUT


@dataclass(frozen=True)
class ExportedModel:
    """A V-MoE or dense ViT as the graphs of a bundle compute it.

    Attributes:
        config: what the model is.
        grouping: its routing groups, which fill every batch.
        output: "logits", "features" for what the head gets, or "tokens" for all tokens behind the last norm. Of an ensemble
            (E3) "logits" are the official prediction, the logarithm of the members' mean probability, and "members" are each
            member's logits.
        uint8_input: take uint8 images and scale them to [-1, 1] inside.
        precision: what the weights are stored in, and so what the large products are computed in.
        layers: blocks behind which the residual stream is an output as well; not of an ensemble.
    """

    config: ModelConfig
    grouping: Grouping
    output: Output = "logits"
    uint8_input: bool = False
    precision: ExportPrecision = "fp32"
    layers: tuple[int, ...] = ()

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """What the graphs return beside the routing, see `Manifest.answers`."""
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
        """The outputs of each MoE layer, in order; see `vmoe_runtime.routing_kinds`."""
        moe = self.config.moe
        return (*LAYER_OUTPUTS[moe.routing.kind], *((TOKEN_OUTPUT,) if self.merges else ())) if moe else ()

    @property
    def merges(self) -> bool:
        """Whether blocks can merge tokens: not where all of them are an output."""
        return self.output != "tokens" and not self.layers and self.config.merges(self.grouping.tokens)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the residual stream passes, in order: "embedding", "encoderblock_0/SelfAttention" ... "head"."""
        moe = self.config.moe
        second = ["Moe" if moe and i in moe.layers else "Mlp" for i in range(self.config.num_layers)]
        blocks = [f"encoderblock_{i}/{name}" for i, last in enumerate(second) for name in ("SelfAttention", last)]
        return ("embedding", *blocks, "head")

    @property
    def class_token_parts(self) -> tuple[str, ...]:
        """Those of `parts` that give the class token of an image alone, as nothing behind them reads another."""
        if (
            self.config.classifier not in ("token", "0")
            or self.output == "tokens"
            or self.config.num_layers - 1 in self.layers
        ):
            return ()
        attention, last = self.parts[-3:-1]
        return (last,) if last.endswith("/Moe") else (attention, last)
