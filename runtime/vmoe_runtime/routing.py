"""The routing of a batch, read from the graph's outputs for each MoE layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.errors import BackendError, RoutingError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import LAYER_OUTPUTS, TOKEN_OUTPUT, ModelKind

Array = np.ndarray[Any, np.dtype[Any]]
Element = Literal["bool", "int32", "float32"]

_ELEMENTS: Mapping[str, Element] = {"expert": "int32", "slot": "int32", "kept": "bool", TOKEN_OUTPUT: "int32"}


@dataclass(frozen=True, eq=False)  # without a generated ==, which can't compare arrays
class Routing:
    """The routing of a batch in one MoE layer, with G groups of S tokens. A field is None if the routing kind lacks it.

    Tokens are in the order of their groups: image by image. In an image, the classifier token comes first if there is one.
    The patches follow row by row, unless some were merged. In an ensemble (E3), each token has a copy for each member, and
    these copies follow one another.

    Attributes:
        kind: "top-k", "experts-choice" or "soft".
        experts: E of the layer; in an ensemble, the total over its members.
        kept: which choices were kept. For top-k: bool[G,S,K], whether the choice got a slot. For expert choice: bool[G,S,E],
            whether the expert chose the token.
        weight: raw gates. For top-k: f32[G,S,K], including dropped choices. For expert choice: f32[G,S,E], for all pairs of
            token and expert.
        expert: for top-k: i32[G,S,K], the expert of each choice, the best first. In graphs for TensorRT, the expert of a
            dropped choice is -1.
        dispatch: for Soft MoE: f32[G,S,E,P], the share of each token in each slot of an expert.
        combine: for Soft MoE: f32[G,S,E,P], the share of each slot in the output of a token.
        token: i32[N,T], the position of each original token among the remaining tokens of its image; merged tokens share a
            position. None if the model can't merge tokens.
    """

    kind: ModelKind
    layout: TokenLayout | None
    experts: int
    kept: Array | None = None
    weight: Array | None = None
    expert: Array | None = None
    dispatch: Array | None = None
    combine: Array | None = None
    token: Array | None = None

    def by_token(self) -> Routing:
        """Return this routing with values for each original token of the images, in arrays [N,T,...].

        Tokens that were merged get the values of their joint token.
        """
        if self.token is None:
            return self
        images, fields = len(self.token), ("kept", "weight", "expert", "dispatch", "combine")
        rows = np.arange(images)[:, None]
        spread = {
            name: values.reshape(images, -1, *values.shape[2:])[rows, self.token]
            for name in fields
            if (values := getattr(self, name)) is not None
        }
        return replace(self, token=None, **spread)

    def patch_mask(self) -> Array:
        """Return which patches were processed by any expert, as bool[N,h,w].

        A patch was processed if any choice of any member was kept. In Soft MoE, all patches are processed. Merged patches
        get the value of their joint token. The classifier token is left out.

        Raises:
            RoutingError: the bundle's manifest doesn't say where patches are.
        """
        layout, routing = self.layout, self.by_token()
        went: Array
        if routing.kept is None:
            assert routing.dispatch is not None
            went = np.ones(routing.dispatch.shape[:2], bool)
        else:
            went = np.any(routing.kept, axis=2)
        if layout is None or went.size % (layout.tokens * layout.members):
            raise RoutingError("the bundle's manifest doesn't say which tokens are patches")
        by_token: Array = np.any(went.reshape(-1, layout.tokens, layout.members), axis=2)
        return by_token[:, layout.tokens - layout.rows * layout.columns :].reshape(-1, layout.rows, layout.columns)


def front_tokens(model: Mapping[str, Any]) -> int:
    """Return the number of tokens before the patches of an image, according to a manifest's model description."""
    extra = model.get("extra_tokens", 0)
    return str(model.get("classifier")).startswith("token") + (extra if type(extra) is int and extra > 0 else 0)


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of an image, and the number of members.

    Each member has a copy of the `tokens` tokens. The last of these tokens are the `rows` x `columns` patches.
    """

    tokens: int
    members: int
    rows: int
    columns: int

    @classmethod
    def of(cls, manifest: Manifest) -> TokenLayout | None:
        """Return the token layout from a manifest's model description.

        The result is None if the description gives no layout, or if the routing groups contradict the layout.
        """
        patch, image = manifest.model.get("patch_size"), manifest.input
        if not (isinstance(patch, list) and len(patch) == 2 and all(type(size) is int and size > 0 for size in patch)):
            return None
        rows, columns = image.height // patch[0], image.width // patch[1]
        if not rows or not columns:
            return None
        tokens = rows * columns + front_tokens(manifest.model)
        if manifest.batch_multiple * tokens * manifest.ensemble_size % (manifest.rules.group_tokens or 1):
            return None
        return cls(tokens, manifest.ensemble_size, rows, columns)


def layer_outputs(
    manifest: Manifest, experts: int | None = None, *, fixed: Profile | None = None
) -> dict[str, tuple[Element, tuple[int | None, ...]]]:
    """Return the element type and shape of each output that a graph has for an MoE layer.

    The keys of the result are the outputs' names without the layer. In the graph, an output is called "LAYER/KEY".

    Args:
        manifest: manifest of the bundle.
        experts: E of the layer; None if the shapes should fit layers with any E.
        fixed: the profile that a graph for TensorRT is fixed to; None for other graphs.
    """
    rules = manifest.rules
    merges = bool(rules.image_tokens and manifest.moe_layers and (fixed is None or fixed.merge))
    tokens = None if merges else rules.group_tokens  # merging leaves fewer
    shape: tuple[int | None, ...] = (None, tokens, None)
    if rules.kind == "experts-choice":
        shape = (None, tokens, experts)
    elif rules.kind == "soft":
        shape = (None, tokens, experts, rules.slots_per_expert)
    names = LAYER_OUTPUTS[rules.kind] if fixed is None or not manifest.moe_layers else ("slot", "weight")
    outputs = {name: (_ELEMENTS.get(name, "float32"), shape) for name in names}
    if merges:
        outputs[TOKEN_OUTPUT] = (_ELEMENTS[TOKEN_OUTPUT], (None, rules.image_tokens))
    return outputs


def layer_rows(manifest: Manifest, output: str, images: int) -> int | None:
    """Return the number of rows of a layer's output.

    The output `token` has one row per image. Any other output has one row per routing group. The result is None if the
    manifest doesn't give the number of tokens.
    """
    if output.rpartition("/")[2] == TOKEN_OUTPUT:
        return images
    layout, group_tokens = TokenLayout.of(manifest), manifest.rules.group_tokens
    return images * layout.tokens * layout.members // group_tokens if layout and group_tokens else None


def layer_routings(
    manifest: Manifest, profile: Profile | None, names: Sequence[str], values: Sequence[Array]
) -> dict[str, Routing]:
    """Convert the outputs of a graph to the routing of each MoE layer, by the layer's name.

    Args:
        manifest: manifest of the bundle.
        profile: the profile that the graph ran with.
        names: names of a layer's outputs, from `layer_outputs`.
        values: the outputs of all layers, one layer after another. Within a layer, they are in the order of `names`.

    Raises:
        BackendError: a layer's outputs contradict one another, or contain an expert or a token that does not exist.
    """
    rules, layout = manifest.rules, TokenLayout.of(manifest)
    layers = list(zip(manifest.moe_layers, rules.experts, layer_fields(names, values, profile), strict=True))
    for name, experts, fields in layers:
        _check_fields(name, experts, fields)
    return {name: Routing(rules.kind, layout, experts, **fields) for name, experts, fields in layers}


def _check_fields(layer: str, experts: int, fields: Mapping[str, Array]) -> None:
    shapes = {values.shape for name, values in fields.items() if name != TOKEN_OUTPUT}
    groups, tokens, *_ = next(iter(shapes))
    images = len(fields.get(TOKEN_OUTPUT, ())) or 1
    # In graphs for TensorRT, the expert of a dropped choice is -1.
    limits = {"expert": (-1, experts), TOKEN_OUTPUT: (0, groups * tokens // images)}
    named = [(fields[name], *limits[name]) for name in limits if name in fields]
    inside = all(low <= values.min(initial=0) and values.max(initial=0) < high for values, low, high in named)
    if len(shapes) > 1 or groups * tokens % images or not inside:
        raise BackendError(
            f"the graph's outputs of {layer} contradict one another, or name an expert or a token that isn't there"
        )


def layer_fields(names: Sequence[str], values: Sequence[Array], profile: Profile | None) -> list[dict[str, Array]]:
    """Return the outputs of each MoE layer by name.

    An output `slot` is replaced by `expert` and `kept`, which are computed from `slot`.
    """
    layers = []
    for i in range(len(values) // len(names) if names else 0):
        fields = dict(zip(names, values[i * len(names) : (i + 1) * len(names)], strict=True))
        if "slot" in fields:
            assert profile is not None
            # Let `slot` belong to expert e, group g and place p among the c slots. Then `slot` is e * M + g * c + p, where
            # M = G * c. For a dropped choice, `slot` is -1.
            slot = fields.pop("slot")
            expert = np.where(slot < 0, -1, slot // (len(slot) * profile.slots[i])).astype(np.int32)
            fields |= {"expert": expert, "kept": slot >= 0}
        layers.append(fields)
    return layers
