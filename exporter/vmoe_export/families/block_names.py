"""The names that another library has for the layers of an encoder block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Layer(NamedTuple):
    """A dense layer: the names of its weight, (outputs, inputs), and of its bias, which is "" if it has none.

    With `part` (i, n) its outputs are part i of n equal ones of both tensors, or with `has_own_bias` of the weight alone.
    `mask` names a tensor that multiplies the bias.
    """

    weight: str
    bias: str = ""
    part: tuple[int, int] = (0, 1)
    has_own_bias: bool = False
    mask: str = ""

    @classmethod
    def of(cls, layer: str | Layer, has_bias: bool = True) -> Layer:
        """The layer of a torch module of that name."""
        return cls(f"{layer}.weight", f"{layer}.bias" if has_bias else "") if isinstance(layer, str) else layer

    def parts(self, count: int) -> tuple[Layer, ...]:
        """The layers that this one stacks, such as those of queries, keys and values."""
        return tuple(self._replace(part=(i, count)) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a block has, by the names behind that of the block; a layer that is text is a torch module's.

    Attributes:
        norms: those before attention and MLP.
        projections, out: the layers of queries, keys and values, and of what attention gives.
        mlp: both layers.
        gate: whose outputs are activated and multiplied with those of the first layer; None if there is none. If it is the
            first layer itself, one tensor holds the gate's outputs, and behind them the first layer's.
        scales: of what attention and MLP add, or "".
        qk_norms: of the queries and keys of each head, or with `wide_qk_norms` of all heads; "" if there are none.
        attention_norm, mlp_norm: of what attention gives its output layer, and of hidden features, or "".
        rms: `norms` are RMS norms.
    """

    norms: tuple[str, str]
    projections: tuple[str | Layer, ...]
    out: str | Layer
    mlp: tuple[str | Layer, str | Layer]
    gate: str | Layer | None = None
    scales: tuple[str, str] = ("", "")
    qk_norms: tuple[str, str] = ("", "")
    wide_qk_norms: bool = False
    attention_norm: str = ""
    mlp_norm: str = ""
    rms: bool = False
