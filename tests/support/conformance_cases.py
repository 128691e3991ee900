"""The cases for the test vectors: routing cases, and one-node models with their options."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from op_models import MERGING, WITH_POLICIES
from op_reference import function_name

from vmoe_export.ops.body_options import GATE_INPUTS, HIDDEN_NORM_INPUTS, MIXED_NORM_INPUTS
from vmoe_export.ops.table import OPS

Arrays = dict[str, np.ndarray]
SIZES = {"G": 2, "S": 9, "D": 8, "E": 4, "F": 16, "K": 2, "M": 6, "N": 2, "T": 9, "Q": 5, "P": 3, "O": 9}
SIZES |= {"H": 1, "J": 1, "C": 2, "A": 2}
"""Default sizes of the one-node models."""

SETTINGS = {"capacity": 3, "k": 2, "bpr": 1, "pool": 1, "max_experts": 3, "merge": 2}
TOKENS = ("x", "q", "k", "v", "buf", "out")
FED = (*TOKENS, "gates", "src", "slot", "weight", "sizes", "token", "dispatch", "combine", "mu", "scale")
"""The inputs that are not weights."""

TOLERANCES = {
    kind: {"atol": atol, "rtol": rtol, "why": why}
    for kind, atol, rtol, why in (
        ("exact", 0.0, 0.0, "integers, copied values, and sums of small whole numbers"),
        ("sum", 2e-5, 2e-5, "float32 sums of at most 128 products, in any order, and exp, tanh or erf of them"),
        ("fp16", 1e-5, 1e-3, "a float32 sum, in any order, rounded to the 11 bits of float16"),
    )
}
RATIOS: list[tuple[int, int, float, Any, int]] = [
    *((197, 8, 0.3, rule, multiple) for rule, multiple in (("ceil", 1), ("ceil", 4), ("round", 1))),
    *((100, 10, 1.1, "ceil", 1), (394, 8, 1.05, "ceil", 4), (8, 8, 0.01, "ceil", 1), (28, 8, 1.0, "round", 1)),
    (20, 8, 1.0, "round", 1),
]
"""Pairs, experts, capacity ratio, rounding and multiple, from which the slots of an expert follow."""
_SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-44, -1e-44, 3e38, -3e38])


@dataclass(frozen=True)
class RoutingCase:
    """A call of an op, with `inputs` by name and with integer `settings`."""

    name: str
    what: str
    model: str
    inputs: Arrays
    settings: Mapping[str, int]


def numbers(name: str, *shape: int) -> np.ndarray:
    """Return multiples of 2**-20 from -2 to 2. On every machine, they depend only on `name` and `shape`."""
    return _rng(name).integers(-(2**21), 2**21, shape) / 2**20


def gates(name: str, groups: int, tokens: int, experts: int, kind: str = "") -> np.ndarray:
    """Return random float64 gates[G,S,E].

    By default, the gates of each token sum to 1. The kind "ties" rounds the gates to multiples of 1/8. The kind "special"
    replaces about half of the gates with special values such as NaN.
    """
    rng = _rng(name)
    shares = rng.integers(1, 4096, (groups, tokens, experts))
    made = shares / shares.sum(axis=-1, keepdims=True)
    if kind == "ties":
        return np.round(made * 8) / 8
    return np.where(rng.integers(0, 2, made.shape) == 0, rng.choice(_SPECIAL, made.shape), made) if kind else made


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def routing_cases() -> Iterator[RoutingCase]:
    """Yield the cases that the tables in this module list."""
    for model, (names, table) in _TABLES.items():
        for line in table.strip().splitlines():
            name, given, settings, what = (part.strip() for part in line.split("|"))
            chosen = dict(zip(names.split(), map(int, settings.split()), strict=True))
            inputs = _INPUTS[names](name, given)
            if "max_experts" in chosen:
                chosen["max_experts"] = chosen["max_experts"] or inputs["gates"].shape[2]
            yield RoutingCase(name, what, model, inputs, chosen)


def _gates_of(name: str, given: str) -> Arrays:
    return {"gates": _array(name, given, gates)}


def _soft_of(name: str, given: str) -> Arrays:
    groups, tokens, experts, slots = map(int, given.split("x"))
    x = numbers(name, groups, tokens, 8)
    x[0, 0] *= "zero" not in name
    return {"x": x, "mu": numbers(f"{name} mu", 8, experts, slots), "scale": np.array(3.25)}


def _merge_of(name: str, given: str) -> Arrays:
    k = _array(name, given, numbers)
    images, tokens, _ = k.shape
    sizes = _rng(f"{name} sizes").integers(1, 5, (images, tokens))
    token = np.tile(np.arange(tokens + 2) % tokens, (images, 1))
    return {"x": numbers(f"{name} x", *k.shape), "k": k, "sizes": sizes, "token": token}


def _array(name: str, given: str, make: Any) -> np.ndarray:
    """Return the array that `given` describes.

    `given` contains either the rows of the array, or a shape and a kind with which to call `make`.
    """
    if "x" not in given:
        return np.array([[row.split() for row in given.split("/")]]).astype(float)
    shape, *kind = given.split()
    return make(name, *map(int, shape.split("x")), *kind)


# Columns: name | shape G x S x E and kind of the gates, or the rows of one group's gates | settings (0 as max_experts means
# no limit) | behaviour that the case tests
_TOP_K = """
one_token | 1x1x4 | 1 2 1 0 0 | A group of one token.
one_expert | 1x7x1 | 3 1 1 0 0 | One expert, without a slot for most tokens.
k_is_e | 2x5x4 | 3 4 1 0 0 | Every token chooses every expert.
experts_256 | 1x24x256 | 1 2 1 0 0 | 256 experts.
b16 | 1x197x8 | 8 1 1 0 0 | One image of a B/16: 197 tokens, 8 experts, capacity ratio 0.3.
vanilla | 2x12x3 | 2 1 0 0 0 | Tokens in the order of their group.
bpr | 2x12x3 | 2 1 1 0 0 | Tokens in descending order of their largest gate.
bpr_second_choices | 2x12x4 | 4 2 1 0 0 | The largest gate also orders second choices.
first_choices | .6 .4 / .3 .7 / .8 .2 | 2 2 0 0 0 | Expert 0 is full before the second choice of token 1.
raw_weights | .5 .25 .125 .125 | 1 2 1 0 0 | Weights are the gates, not divided by their sum.
more_slots_than_pairs | 2x3x4 | 9 2 1 0 0 | Some slots stay empty.
tied_experts | .25 .25 .25 .25 / .1 .4 .4 .1 / .1 .1 .4 .4 | 2 2 0 0 0 | Among equal gates, the lower expert first.
tied_tokens | .75 .25 / .25 .75 / .75 .25 / .75 .25 | 2 1 1 0 0 | Among tokens with equal largest gates, the lower first.
all_tied | .25 .25 .25 .25 / .25 .25 .25 .25 / .25 .25 .25 .25 | 2 3 1 0 0 | All gates are equal.
eighths | 3x16x6 ties | 3 2 1 0 0 | Many ties.
neighbours | .25 .25000003 .24999999 / .25000003 .25 .25 / .25 .25 .25000003 | 1 2 1 0 0 | Adjacent float32 numbers differ.
zeros_and_denormals | -0 0 1e-44 / 0 -0 -1e-44 / 1e-44 0 1e-44 | 1 2 1 0 0 | 0 and -0 are equal; a denormal is larger.
nan_ranks_as_0 | -.5 nan .5 / nan -.25 nan / -1 -.5 -2 / 0 nan -0 | 2 2 1 0 0 | NaN ranks below positive gates.
nan_priority | -1 -2 / nan nan / .5 .25 / nan -3 | 2 1 1 0 0 | A token with only NaN has priority 0.
infinities | inf .5 -inf / -inf -inf -inf / .5 inf inf / nan -inf 3e38 | 2 2 1 0 0 | Infinities are largest and smallest.
special | 2x20x5 special | 4 2 1 0 0 | NaN, infinities, zeros, denormals.
pool | 1x16x4 | 2 1 1 1 0 | A pool keeps pairs that an expert alone would drop.
pool_vanilla | 1x16x4 | 2 2 0 1 0 | A pool in vanilla order.
pool_groups | 3x9x4 | 1 2 1 1 0 | The pools of three groups, consecutive in an expert's rows.
pool_one_expert | .75 .25 / .75 .25 / .75 .25 / .75 .25 / .75 .25 | 2 1 1 1 0 | All tokens choose one expert.
pool_not_full | 2x4x3 | 5 1 1 1 0 | A pool with more slots than pairs.
limit | 2x14x5 | 3 2 1 0 2 | Two of five experts; pairs of the others get no slot.
limit_pool | 2x14x5 | 1 2 1 1 2 | The allowed experts share a pool.
limit_tied | .25 .75 / .75 .25 / .25 .75 / .75 .25 | 2 1 1 0 1 | Among equal masses, the lower expert.
limit_floors | .5 .25 / .25 .50001526 / .5 .25 / .25 .50001526 | 4 1 0 0 1 | Floored masses are equal; sums of gates are not.
limit_first_choices | .5 .48 .02 / .02 .48 .5 / .51 .49 0 | 3 2 1 0 2 | Second choices add no mass.
limit_special | 2x18x4 special | 4 2 1 0 2 | Gates in masses are clipped to 0 and 1.
ensemble | .6 .4 0 0 / 0 0 .3 .7 / .9 .1 0 0 / 0 0 .6 .4 / .7 .3 0 0 | 1 1 1 0 0 | E3 with two members, whose rows alternate.
mixed_1 | 2x23x7 | 3 2 0 1 3 | Vanilla order, a pool and a limit.
mixed_2 | 3x17x9 ties | 2 3 1 1 4 | Ties, a pool and a limit.
mixed_3 | 2x31x12 special | 5 4 1 0 7 | Special values and a limit.
mixed_4 | 3x20x16 special | 1 2 0 1 16 | Special values in vanilla order and a pool.
mixed_5 | 2x19x6 ties | 4 2 0 0 3 | Ties in vanilla order and a limit.
"""
_CHOICE = """
choice | 2x9x4 | 3 | Each expert takes its three best tokens of a group.
choice_one_token | 1x1x4 | 1 | One token for every expert.
choice_tied | .5 .25 / .5 .75 / .5 .75 / .5 .25 | 2 | Among equal gates, the lower token first.
choice_eighths | 2x16x5 ties | 4 | Many ties.
choice_every_token | 1x5x3 | 5 | As many slots as tokens.
choice_empty_slots | 2x3x2 | 5 | More slots than tokens.
choice_special | 2x14x4 special | 5 | NaN ranks as 0; infinities, zeros, denormals.
choice_256 | 1x12x256 | 2 | 256 experts.
"""
# Columns: name | G x S x E x P | (empty) | behaviour that the case tests
_SOFT = """
soft | 2x9x4x2 | | The shares of tokens in slots, and of slots in tokens.
soft_one_token | 1x1x4x2 | | Every slot equals the only token.
soft_one_slot | 1x6x1x1 | | The only slot has a share of 1 in every token.
soft_zero | 2x5x3x2 | | A token of zeros, so that the epsilon under the root matters.
"""
# Columns: name | shape N x T x D of keys with two heads, or the keys of one image | merge | behaviour that the case tests
_MERGE_0 = """
merge | 2x12x8 | 3 | Three tokens join others; means are weighted by sizes.
merge_half | 2x9x8 | 100 | At most half of the tokens.
merge_one_token | 2x1x8 | 2 | There is nothing to merge.
merge_two_tokens | 1x2x8 | 1 | Two tokens become one.
merge_tied | 1 0 1 0 / 0 1 0 1 / 1 0 1 0 / 1 0 1 0 / 0 1 0 1 / 0 1 0 1 / 1 0 1 0 | 2 | Ties go to the lower tokens.
"""
_MERGE_1 = """
merge_classifier | 2x13x8 | 3 | The class token in front stays.
merge_nothing | 1x6x8 | 0 | Nothing changes.
merge_nan | 1 0 1 0 / 1 0 1 0 / nan 0 0 0 / 1 0 1 0 / .75 .25 .75 .25 / 0 1 0 1 / 0 0 0 0 | 2 | NaN is the least similar.
"""
_TABLES = {
    "test_vmoe_route_policies": ("capacity k bpr pool max_experts", _TOP_K),
    "test_vmoe_choose_tokens": ("capacity", _CHOICE),
    "test_vmoe_soft_router": ("", _SOFT),
    "test_vmoe_merge_prefix_0": ("merge", _MERGE_0),
    "test_vmoe_merge_prefix_1": ("merge", _MERGE_1),
}
_INPUTS = {"capacity k bpr pool max_experts": _gates_of, "capacity": _gates_of, "": _soft_of, "merge": _merge_of}

# Differences from the defaults, by op and by the end of the case's name. They can be sizes, element types (W, T), optional
# inputs, and attributes.
_OPS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "VmoeGates": {"": {}},
    "VmoeRoute": {"": {}, "_policies": {"given": WITH_POLICIES}},
    "VmoeDispatch": {"": {}, "_fp16": {"T": "fp16"}},
    "VmoeRouteDispatch": {"": {}},
    "VmoeExpertMlp": {
        "": {}, "_gelu_erf": {"activation": 1}, "_gelu_quick": {"activation": 2}, "_silu": {"activation": 3},
        "_dispatch_bf16": {"dispatch_bf16": 1},
        "_bf16": {"W": "bf16"}, "_int8": {"W": "i8"}, "_int8_chunks": {"W": "i8", "F": 128, "hidden_chunk": 64},
        "_int4": {"W": "i4", "D": 72, "F": 66, "J": 2, "H": 2, "E": 2},
    },
    "VmoeCombine": {"": {}, "_fp16": {"T": "fp16"}},
    "VmoeRouterBlock": {"": {}, "_policies": {"given": WITH_POLICIES}},
    "VmoeExpertBlock": {"": {}},
    "VmoeChooseTokens": {"": {}},
    "VmoeSoftRouter": {"": {}},
    "VmoeSoftDispatch": {"": {}, "_bf16": {"dispatch_bf16": 1}},
    "VmoeSoftCombine": {"": {}, "_bf16": {"dispatch_bf16": 1}},
    "VmoeMerge": {"_prefix_0": {"num_heads": 2}, "_prefix_1": {"num_heads": 2, "prefix": 1}},
    "VmoeLinear": {"": {}, "_bf16": {"W": "bf16"}, "_int8": {"W": "i8"}},
    "VmoeDenseMlp": {"": {}},
    "VmoeMlpBlock": {"": {}, "_gated": {"activation": 3, "given": (*GATE_INPUTS, *HIDDEN_NORM_INPUTS)}},
    "VmoeAttention": {"": {"num_heads": 2}, "_sizes": {"num_heads": 2, "given": MERGING}, "_bf16": {"bf16": 1}},
    "VmoeRotate": {"": {"num_heads": 2}},
    "VmoeAttentionBlock": {
        "": {"num_heads": 2}, "_merging": {"num_heads": 2, "prefix": 1, "given": MERGING},
        "_norms": {"num_heads": 2, "given": MIXED_NORM_INPUTS},
    },
    "VmoeClassAttentionBlock": {"": {"num_heads": 2}},
}  # fmt: skip
OP_ROWS = {f"test_vmoe_{function_name(op)}{end}": (OPS[op], row) for op, rows in _OPS.items() for end, row in rows.items()}
"""The op and its options, by the name of its folder in ops/."""
