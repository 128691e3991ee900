"""Random calls of the routing ops, with every token type that the ops accept.

Their expected outputs are exact to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from cpu_paths import Call, Outputs
from on_gpu.gate_kinds import make_gates
from op_models import NUMPY_TYPES, SETTINGS, node_call, run_reference, settings
from routing_cases import same_bits

from vmoe_export.ops.table import OPS, ElementType

FLOATS: tuple[ElementType, ...] = ("float", "fp16", "bf16")
MOE_OPS = ("VmoeRoute", "VmoeDispatch", "VmoeRouteDispatch", "VmoeCombine")
WIDTHS = (1, 2, 7, 8, 33, 255, 256, 257, 600)
POWERS = np.float32(10) ** np.arange(-8, 5, dtype=np.float32)

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class MoeCall:
    """A call of an op, with the op's inputs by name. Settings that are not inputs are in `attributes`."""

    op: str
    tokens: ElementType
    inputs: Inputs
    attributes: dict[str, int]

    @property
    def call(self) -> Call:
        return node_call(self.op, self.inputs, self.attributes)

    @property
    def expected(self) -> Outputs:
        """The call's expected outputs, in the types of the model's outputs. float32 replaces bfloat16."""
        made = reference(self)
        return [array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array for array in made]

    def __str__(self) -> str:
        shapes = {name: array.shape for name, array in self.inputs.items()}
        return f"{self.op} tokens {self.tokens} {shapes} {self.attributes}"


def token_types(op: str) -> tuple[ElementType, ...]:
    """Return the token types that an op accepts. If the op has no tokens, return only float."""
    return FLOATS if any(value.type == "T" for value in OPS[op].inputs) else FLOATS[:1]


def moe_calls(seed: int, count: int) -> Iterator[MoeCall]:
    """Yield `count` random calls for each MoE op and each token type that the op accepts."""
    rng = np.random.default_rng([10, seed])
    for op in MOE_OPS:
        for tokens in token_types(op):
            for _ in range(count):
                yield _random_call(rng, op, tokens)


def same_values(found: Outputs, expected: Outputs) -> bool:
    """Return whether all bits of two lists of outputs are equal. Any two NaNs are considered equal."""
    return same_bits([_plain_nan(array) for array in found], [_plain_nan(array) for array in expected])


def _plain_nan(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.int32 else np.where(np.isnan(array), array.dtype.type(np.nan), array)


def _random_call(rng: np.random.Generator, op: str, tokens: ElementType) -> MoeCall:
    groups, group, experts = (int(n) for n in (rng.integers(1, 4), rng.integers(1, 60), rng.integers(1, 20)))
    k = int(rng.integers(1, min(experts, 8) + 1))
    capacity, width = int(rng.choice([1, 2, 3, group, 2 * group + 1])), int(rng.choice(WIDTHS))
    places = groups * capacity
    numbers = {"capacity": capacity, "k": k, "bpr": int(rng.integers(2))}
    make: dict[str, Callable[[], np.ndarray]] = {
        "gates": lambda: make_gates(rng, int(rng.integers(8)), (groups, group, experts)),
        "x": lambda: _floats(rng, (groups, group, width), tokens),
        "src": lambda: rng.integers(-1, groups * group, (experts, places), np.int32),
        "out": lambda: _floats(rng, (experts, places, width), tokens),
        "slot": lambda: rng.integers(-1, experts * places, (groups, group, k), np.int32),
        "weight": lambda: _floats(rng, (groups, group, k), "float"),
    }
    names = [value.name for value in OPS[op].inputs]
    inputs = {name: make[name]() for name in names if name in make}
    attributes: dict[str, int] = {}
    if "capacity" in names:
        if rng.random() < 0.5:
            attributes = numbers
        else:
            inputs |= dict(zip(SETTINGS, settings(*numbers.values()), strict=True))
    return MoeCall(op, tokens, inputs, attributes)


def _floats(rng: np.random.Generator, shape: tuple[int, ...], element: ElementType) -> np.ndarray:
    """Return numbers of all magnitudes. Occasionally, they include infinities and NaN."""
    values = rng.standard_normal(shape, np.float32) * rng.choice(POWERS, shape)
    if rng.random() < 0.3:
        values[rng.random(shape) < 0.05] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32))
    with np.errstate(over="ignore"):
        return values.astype(NUMPY_TYPES[element])


def reference(call: MoeCall) -> Outputs:
    """Return the numpy reference's outputs of a call, in the types of the op."""
    numbers = (np.array([number], np.int64) for number in call.attributes.values())
    return run_reference(OPS[call.op], *call.inputs.values(), *numbers)
