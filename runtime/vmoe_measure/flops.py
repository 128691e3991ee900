"""FLOPs (floating-point operations) of a model per image.

Only matrix products are counted. A multiply-add counts as two operations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmoe_runtime.bundle.manifest import layer_output
from vmoe_runtime.capacity import count_merged
from vmoe_runtime.errors import BundleError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import front_tokens
from vmoe_runtime.routing_rules import RoutingRules


@dataclass(frozen=True)
class ModelShape:
    """The sizes that determine a model's matrix products.

    Attributes:
        patches, patch_values: number of patches of an image, and number of values in a patch.
        tokens: T, number of tokens of an image: its patches and, if the model has one, a classifier token.
        width: D, number of values in a token.
        num_layers: number of encoder blocks.
        mlp_dim: width of a dense MLP's hidden layer.
        moe_layers: indices of the blocks with experts; empty for a dense ViT.
        expert_mlp_dim: width of an expert's hidden layer.
        members: number M of ensemble members (E3). An ensemble repeats its tokens M times in the first MoE layer. 1 for
            other models.
        router_products: number of matrix products in a MoE layer whose size depends on `router_columns`. It is 3 for a Soft
            MoE, and 1 for other models.
        router_columns: for each MoE layer, the number of experts. For a Soft MoE, the total number of slots of all experts.
        has_map_head: whether the head pools the tokens by attention.
        reads_class_token: whether the head reads only one token, so that the last block can skip work for the other tokens.
        representation_size, classes: widths of the head's two layers; 0 for a layer that the head lacks.
        pooled_tokens: number of tokens whose features are concatenated as the input of the head.
        has_gate: whether a dense MLP has a third matrix product, which computes its gate.
        has_bare_map_head: whether the map head has neither a query projection nor an MLP.
    """

    patches: int
    patch_values: int
    tokens: int
    width: int
    num_layers: int
    mlp_dim: int
    moe_layers: tuple[int, ...]
    expert_mlp_dim: int
    members: int
    router_products: int
    router_columns: tuple[int, ...]
    has_map_head: bool
    reads_class_token: bool
    representation_size: int
    classes: int
    pooled_tokens: int = 1
    has_gate: bool = False
    has_bare_map_head: bool = False

    @property
    def ends_in_class_pairs(self) -> bool:
        """Whether the last MoE layer computes only the (token, choice) pairs of the class tokens."""
        ends_in_pairs = self.num_layers - 1 in self.moe_layers and self.router_products == self.members == 1
        return self.reads_class_token and ends_in_pairs

    @classmethod
    def of(cls, model: Mapping[str, Any], *, features: bool = False, outputs: Collection[str] = ()) -> ModelShape:
        """Return the sizes that a manifest's model description specifies.

        Args:
            model: the description, as `vmoe-export` writes it.
            features: whether the bundle outputs features. Such a bundle lacks the layer that computes the logits.
            outputs: names of the bundle's outputs. If they include the output of the last block, that block computes all
                tokens.

        Raises:
            BundleError: the description lacks a size. The bundle reader doesn't check this.
        """
        try:
            (height, width), (patch_height, patch_width) = model["image_size"], model["patch_size"]
            patches = (height // patch_height) * (width // patch_width)
            moe = model["moe"] or {}
            routing = moe.get("routing") or {}
            is_soft = routing.get("kind") == "soft"
            layers, slots = tuple(moe.get("layers", ())), routing["slots_per_expert"] if is_soft else 1
            experts = moe.get("layer_experts") or [moe["num_experts"] for _ in layers]
            shape = cls(
                patches=patches,
                patch_values=patch_height * patch_width * model["channels"],
                tokens=patches + front_tokens(model),
                width=model["hidden_size"],
                num_layers=model["num_layers"],
                mlp_dim=model["mlp_dim"],
                moe_layers=layers,
                expert_mlp_dim=moe.get("mlp_dim", 0),
                members=routing.get("ensemble_size", 1),
                router_products=3 if is_soft else 1,  # a Soft MoE has one product each for the logits, dispatch and combine
                router_columns=tuple(count * slots for count in experts),
                has_map_head=model["classifier"] == "map",
                reads_class_token=model["classifier"] in ("token", "0")
                and model.get("pools") is not False
                and layer_output(model["num_layers"] - 1) not in outputs,
                representation_size=model["representation_size"] or 0,
                classes=0 if features else model["num_classes"] or 0,
                pooled_tokens=2 if "+" in model["classifier"] else 1,
                has_gate=bool(model.get("gated_mlp")),
                has_bare_map_head=bool(model.get("bare_map_head")),
            )
            dense_flops(shape), sparse_flops(shape, [1.0] * len(shape.moe_layers))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError):
            raise BundleError("the manifest's model description lacks the sizes that FLOPs are counted from") from None
        return shape


def dense_flops(shape: ModelShape) -> int:
    """Return the FLOPs per image of a dense ViT of the same size. That ViT has an MLP in place of every MoE layer."""
    return sparse_flops(replace(shape, moe_layers=(), router_columns=(), members=1), ())


def sparse_flops(shape: ModelShape, expert_rows: Sequence[float], merge: int = 0) -> int:
    """Return the FLOPs per image.

    Args:
        shape: the model's sizes.
        expert_rows: for each MoE layer, the number of rows that its experts compute per image, summed over the experts.
        merge: number of tokens that each block merges. The cost of selecting the tokens to merge is not counted.
    """
    return round(sum(flops_by_kind(shape, expert_rows, merge).values()))


def flops_by_kind(shape: ModelShape, expert_rows: Sequence[float], merge: int = 0) -> dict[str, float]:
    """Return the FLOPs per image for each kind of matrix product. The arguments are those of `sparse_flops`.

    Returns:
        - `projections`: attention's projections
        - `tokens`: attention's products of queries with keys, and of attention weights with values
        - `dense`: dense MLPs
        - `experts`: the experts
        - `others`: all other products
    """
    tokens, width, members = tokens_of_blocks(shape, merge), shape.width, 1
    found: dict[str, float] = dict.fromkeys(("projections", "tokens", "dense", "experts"), 0)
    found["others"] = 2 * shape.patches * shape.patch_values * width
    moe = zip(expert_rows, shape.router_columns, strict=True)
    for layer in range(shape.num_layers):
        queries, left = tokens[layer], tokens[layer + 1]
        if shape.reads_class_token and layer == shape.num_layers - 1 and layer not in shape.moe_layers:
            queries, left = 1, 1
        found["projections"] += members * 4 * (tokens[layer] + queries) * width**2
        found["tokens"] += members * 4 * queries * tokens[layer] * width
        if layer not in shape.moe_layers:
            found["dense"] += members * (6 if shape.has_gate else 4) * left * width * shape.mlp_dim
            continue
        members, (rows, columns) = shape.members, next(moe)
        found["others"] += 2 * shape.router_products * members * left * width * columns
        found["experts"] += 4 * rows * width * shape.expert_mlp_dim
    found["others"] += shape.members * _head(shape, tokens[-1])
    return found


def tokens_of_blocks(shape: ModelShape, merge: int) -> list[int]:
    """Return how many tokens an image has before each encoder block and after the last block.

    Each block merges `merge` tokens, or as many as possible if it can't merge that many.

    Examples:
        >>> shape = ModelShape(49, 0, 50, 0, 3, 0, (), 0, 1, 0, (), False, True, 0, 0)
        >>> tokens_of_blocks(shape, 8), tokens_of_blocks(shape, 100)
        ([50, 42, 34, 26], [50, 26, 14, 8])
    """
    tokens, prefix = [shape.tokens], max(shape.tokens - shape.patches, int(shape.reads_class_token))
    for _ in range(shape.num_layers):
        tokens.append(tokens[-1] - count_merged(tokens[-1], merge, prefix))
    return tokens


def rows_of_all_slots(rules: RoutingRules, profile: Profile | None, shape: ModelShape) -> list[float]:
    """Return the argument `expert_rows` of `sparse_flops`, assuming that every slot of every expert is used.

    If tokens are merged, a layer may have more slots than (token, choice) pairs. In that case, the layer's number of rows
    is the number of pairs.

    Args:
        rules: the model's routing rules.
        profile: the setting; None for a Soft MoE and a dense ViT.
        shape: the model's sizes.
    """
    if rules.kind == "dense":
        return []
    groups = shape.tokens * shape.members / rules.group_tokens  # per image
    if rules.kind == "soft":
        return [groups * experts * rules.slots_per_expert for experts in rules.experts]
    assert profile is not None
    rows = [groups * experts * slots for experts, slots in zip(rules.experts, profile.slots, strict=True)]
    if profile.merge:
        left = [tokens_of_blocks(shape, profile.merge)[layer + 1] for layer in shape.moe_layers]
        choices = [profile.k or experts for experts in rules.experts]
        rows = [min(count, tokens * each) for count, tokens, each in zip(rows, left, choices, strict=True)]
    return [*rows[:-1], float(rules.experts[-1])] if shape.ends_in_class_pairs else rows


def _head(shape: ModelShape, tokens: int) -> int:
    width, flops = shape.width, 0
    if shape.has_map_head:
        flops += 4 * width**2 * (tokens + 1) + 4 * tokens * width + 4 * width * shape.mlp_dim
    if shape.has_bare_map_head:
        flops -= 2 * width**2 + 4 * width * shape.mlp_dim
    pooled = shape.pooled_tokens * width
    flops += 2 * pooled * shape.representation_size
    return flops + 2 * (shape.representation_size or pooled) * shape.classes
