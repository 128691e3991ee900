"""The patches of an image in one MoE layer: how often each patch was processed, and by which expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmoe_runtime import Routing, RoutingError
from vmoe_runtime.routing import Array
from vmoe_tools.inspect.statistics import choices_of


@dataclass(frozen=True)
class LayerPatches:
    """The patches of N images in one MoE layer, rows x columns per image.

    Attributes:
        processed: i64[N,rows,columns], number of kept choices of the patch, over all members of an ensemble. It is 0 if the
            patch was dropped. In a Soft MoE it is E, because all experts process a part of every patch.
        expert: i64[N,rows,columns], the expert of the kept choice with the largest gate; -1 if the patch was dropped. If
            several gates are equally large, the first choice counts.
        weight: f32[N,rows,columns], the gate of the choice in `expert`. In a Soft MoE, it is the share of that expert in
            the patch's output. It is 0 if the patch was dropped.
    """

    processed: Array
    expert: Array
    weight: Array


def layer_patches(routing: Routing) -> LayerPatches:
    """Return the patches of a batch in one MoE layer, without the classifier token.

    Args:
        routing: the routing of the layer, of any kind.

    Raises:
        RoutingError: the bundle's manifest does not say which tokens are patches.
    """
    choices, layout = choices_of(routing.by_token()), routing.layout
    if layout is None or len(choices.kept) % (layout.tokens * layout.members):
        raise RoutingError("the bundle's manifest doesn't say which tokens are patches")
    first = layout.tokens - layout.rows * layout.columns

    def of_patches(values: Array) -> Array:
        """Select the values that belong to patches, and reshape them to [N, rows, columns, choices of all members]."""
        by_token = values.reshape(-1, layout.tokens, layout.members * values.shape[1])
        return by_token[:, first:].reshape(-1, layout.rows, layout.columns, by_token.shape[2])

    kept, weight, expert = (of_patches(values) for values in (choices.kept, choices.weight, choices.expert))
    heaviest = np.where(kept, weight, -np.inf).argmax(axis=3)[..., None]
    processed = np.count_nonzero(kept, axis=3)
    return LayerPatches(
        processed,
        np.where(processed > 0, np.take_along_axis(expert, heaviest, axis=3)[..., 0], -1).astype(np.int64),
        np.where(processed > 0, np.take_along_axis(weight, heaviest, axis=3)[..., 0], 0).astype(np.float32),
    )


def experts_and_tokens(routing: Routing) -> Array:
    """Return i64[2,N,rows,columns]: `LayerPatches.expert`, and the token that contains each patch.

    A token is given by its index in the image.

    Raises:
        RoutingError: the bundle's manifest doesn't say which tokens are patches.
    """
    expert = layer_patches(routing).expert
    images, patches = len(expert), expert[:1].size
    token = np.tile(np.arange(patches), (images, 1)) if routing.token is None else routing.token[:, -patches:]
    return np.stack([expert, token.reshape(expert.shape)])
