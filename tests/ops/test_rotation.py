"""Rotary positions on every implementation: VmoeRotate, and the attention blocks that rotate queries and keys."""

from __future__ import annotations

import numpy as np
import op_reference
import pytest
from op_models import RUNNERS, given_inputs, normal, runner, typed_weights

from vmoe_export.ops.body_options import MERGING_INPUTS, ROTATION_INPUTS
from vmoe_export.ops.table import OPS

pytestmark = pytest.mark.fast

SHAPES = [(1, 1, 64), (2, 7, 48), (3, 4, 32), (2, 33, 88)]
"""Images, heads and columns of a head: lines that are whole, and heads that begin within one."""


def positions(rng: np.random.Generator, images: int, tokens: int, size: int) -> list[np.ndarray]:
    """Coordinates of tokens, of which the first has none, and frequencies."""
    coordinates = 3 * normal(rng, images, tokens, 2)
    coordinates[:, 0] = 0
    return [coordinates, normal(rng, 2, size // 2)]


@pytest.mark.parametrize(("images", "heads", "size"), SHAPES)
@pytest.mark.parametrize("name", RUNNERS)
def test_pairs_of_columns_turn_by_the_angle_of_their_token(name: str, images: int, heads: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x, rotation = normal(rng, images, 9, heads * size), positions(rng, images, 9, size)
    (found,) = runner(name, "VmoeRotate", num_heads=heads)(x, *rotation)
    expected = op_reference.rotate(*(array.astype(float) for array in (x, *rotation)), heads)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])  # whose coordinates are zero


@pytest.mark.parametrize("weights", ["float", "bf16", "i8"])
@pytest.mark.parametrize("merging", [False, True], ids=["whole", "merging"])
@pytest.mark.parametrize("op_name", ["VmoeAttentionBlock", "VmoeClassAttentionBlock"])
@pytest.mark.parametrize("name", RUNNERS)
def test_an_attention_block_rotates_queries_and_keys(name: str, op_name: str, merging: bool, weights: str) -> None:
    rng = np.random.default_rng(1)
    images, tokens, heads, size = 2, 21, 3, 32
    width = heads * size
    kernels, scales = typed_weights([normal(rng, width, width) / np.float32(width**0.5) for _ in range(4)], weights)
    made = {
        "x": normal(rng, images, tokens, width),
        "ln_scale": 1 + normal(rng, width) / 8,
        "ln_bias": normal(rng, width) / 8,
    }
    made |= dict(zip(("wq", "wk", "wv", "wo"), kernels, strict=True))
    made |= {f"b{of}": normal(rng, width) for of in "qkvo"}
    made |= dict(zip(("wq_scale", "wk_scale", "wv_scale", "wo_scale"), scales, strict=False))
    made |= dict(zip(("coordinates", "frequencies"), positions(rng, images, tokens, size), strict=True))
    if merging:
        made |= {"sizes": np.ones((images, tokens), np.float32), "merge": np.array([4], np.int64)}
        made["token"] = np.tile(np.arange(tokens, dtype=np.int32), (images, 1))
    given = frozenset({"ln_bias", *ROTATION_INPUTS, *(MERGING_INPUTS if merging else ())})
    values = given_inputs(OPS[op_name], weights, given)
    attributes = {"num_heads": heads} | ({"prefix": 1} if op_name == "VmoeAttentionBlock" else {})
    run = runner(name, op_name, weights, given=given, **attributes)
    found = run(*(made[value.name] for value in values))
    wide = {key: array.astype(float) if array.dtype == np.float32 else array for key, array in made.items()}
    if merging:
        wide["merge"] = 4
    if op_name == "VmoeAttentionBlock":
        expected = op_reference.attention_block(**wide, **attributes)
    else:
        wide = {key: value for key, value in wide.items() if key not in ("token", "merge")}
        expected = op_reference.attention_block(**wide, **attributes)[:, :1]
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol={"float": 2e-5, "bf16": 4e-2, "i8": 8e-2}[weights])
