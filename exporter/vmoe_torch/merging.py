"""Token merging ("Token Merging", arXiv 2210.09461) in torch.

Gradients flow through the average of merged tokens, but not through the choice of tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vmoe_export.ops.table import MERGE_EPSILON


class Merged(NamedTuple):
    """The state of an image's tokens after merging.

    Attributes:
        sizes: f32[N,T], the number of original tokens that were averaged into each token.
        token: i64[N,T0], for each original token, the index of the token that now contains it.
    """

    sizes: Tensor
    token: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> Merged:
        """Return the state of x[N,T,D] before any merging."""
        tokens = torch.arange(x.shape[1], device=x.device)
        return cls(torch.ones(x.shape[:2], device=x.device), tokens.expand(len(x), -1))


def merge(x: Tensor, k: Tensor, merged: Merged, count: int, num_heads: int, prefix: int) -> tuple[Tensor, Merged]:
    """Compute VmoeMerge: x[N,T,D] with keys k[N,T,D] -> y[N,U,D]. Return y and the new state.

    After the first `prefix` tokens, every second token is a candidate. Up to `count` candidates are merged. Each of
    them is merged into the token with the most similar key among the tokens that are not candidates.
    """
    tokens = x.shape[1]
    # Every second token after the prefix is a candidate, starting with the first one. If the prefix is a single token,
    # start with the second one.
    first, joined = (2, 1) if prefix == 1 else (prefix, prefix + 1)
    joining, others = len(range(first, tokens, 2)), len(range(joined, tokens, 2))
    count = min(count, tokens // 2, joining) if others else 0
    if not count:
        return x, merged
    with torch.no_grad():
        mean = k.float().reshape(*k.shape[:2], num_heads, -1).mean(dim=2)
        metric = mean / torch.sqrt((mean * mean).sum(dim=-1, keepdim=True) + MERGE_EPSILON)
        scores = metric[:, first::2] @ metric[:, joined::2].transpose(1, 2)
        best, to = scores.nan_to_num(nan=-torch.inf).max(dim=2)
        # On ties, choose the token with the lower index: argmax over these zeros and ones returns the index of the first
        # one.
        to = (scores.nan_to_num(nan=-torch.inf) == best[..., None]).int().argmax(dim=2)
        turn = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        goes, behind = turn < count, prefix + joining - count
        place = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        place[:, :prefix] = torch.arange(prefix, device=x.device)
        place[:, first::2] = torch.where(goes, behind + to, prefix - 1 + (~goes).cumsum(dim=1))
        place[:, joined::2] = behind + torch.arange(others, device=x.device)
        shares = torch.nn.functional.one_hot(place, tokens - count).transpose(1, 2) * merged.sizes[:, None]
    sizes = shares.sum(dim=2)
    y = (shares @ x.float() / sizes[..., None]).to(x.dtype)
    return y, Merged(sizes, place.gather(1, merged.token))
