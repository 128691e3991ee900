"""The names that another library uses for the layers of an encoder block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Layer(NamedTuple):
    """The tensor names of a dense layer.

    Attributes:
        weight: name of the weight, which has the shape (outputs, inputs).
        bias: name of the bias, or "" if there is none.
        part: (i, n) selects part i of n equal parts of the outputs.
        has_own_bias: whether `bias` holds the bias of this part alone, so that `part` applies only to the weight.
        mask: name of a tensor that multiplies the bias, or "" if there is none.
    """

    weight: str
    bias: str = ""
    part: tuple[int, int] = (0, 1)
    has_own_bias: bool = False
    mask: str = ""

    @classmethod
    def of(cls, layer: str | Layer, has_bias: bool = True) -> Layer:
        """Return the layer of the torch module with this name. A `Layer` is returned unchanged."""
        return cls(f"{layer}.weight", f"{layer}.bias" if has_bias else "") if isinstance(layer, str) else layer

    def parts(self, count: int) -> tuple[Layer, ...]:
        """Split the layer into `count` layers, such as queries, keys and values.

        If the outputs of the returned layers are stacked in order, they equal the outputs of this layer.
        """
        return tuple(self._replace(part=(i, count)) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Block:
    """The layers of an encoder block. Their names are relative to the block.

    A layer given as a string is the name of a torch module.

    Attributes:
        norms: norms before attention and before the MLP.
        projections: layers of queries, keys and values.
        out: output layer of attention.
        mlp: the first and the second layer of the MLP.
        gate: the MLP's gate layer, or None. Its outputs are activated and multiplied by the outputs of the first MLP layer.
            If the gate and the first MLP layer have the same name, one tensor holds both layers, with the gate's outputs
            first.
        scales: tensors that multiply the outputs of attention and of the MLP, or "" if there are none.
        qk_norms: norms of the queries and keys, or "" if there are none. They normalize each head separately. If
            `wide_qk_norms` is true, they normalize all heads together.
        attention_norm: norm before the output layer of attention, or "" if there is none.
        mlp_norm: norm of the MLP's hidden features, or "" if there is none.
        rms: whether `norms` are RMS norms.
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
