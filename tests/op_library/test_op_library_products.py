"""Tests for every layer op with weights in int8, int4 or bfloat16, on every CPU path.

An op's results must have the same bits as those of its ONNX function in stock ONNX Runtime. Results with
int4 weights are compared with the reference instead, because ONNX can't express the order in which the sums are computed.

The numbers are chosen so that only the products under test round:

- Normalized rows equal ln_bias.
- Hidden values are so large that GELU returns them unchanged.
- Each token attends equally to all tokens in its image.
- Sums in bfloat16 are integers that float32 represents exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from cpu_paths import need_op_library, outputs_of, run_calls, supported_paths
from op_models import given_inputs, node_call, normal, run_reference, runner

from vmoe_export.ops.table import ACTIVATIONS, ELEMENT_TYPES, OPS, ElementType
from vmoe_export.validation.reference_ops import activate

pytestmark = pytest.mark.long

need_op_library()

EVERY_PATH = pytest.mark.parametrize("path", supported_paths())
EVERY_SHORT_TYPE = pytest.mark.parametrize("weights", ["bf16", "i8", "i4"])
TOKENS = 8  # per image; a power of two, so that the mean over tokens is exact
SIZES = ((1, 64, 0, 0), (4, 128, 64, 1), (33, 70, 0, 2), (64, 192, 64, 0), (100, 768, 0, 1), (200, 1536, 768, 2))
"""Width, hidden features, their chunk in int8 and int4, and activation."""
EXPERT_OPS = ("VmoeExpertMlp", "VmoeExpertBlock")
SMALLEST = np.float32(1e-45)
ATTENTION_BLOCKS = ("VmoeAttentionBlock", "VmoeClassAttentionBlock")
APPROXIMATE_GELU = ("avx2", "avx2_vnni")
"""Paths whose GELU is off by a few units in the last place, which may change the rounding of a hidden value."""

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """One call of an op."""

    op: str
    inputs: Inputs
    attributes: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0


@pytest.mark.sample(6)
@EVERY_PATH
@EVERY_SHORT_TYPE
def test_every_layer_has_the_bits_of_its_function(weights: ElementType, path: str) -> None:
    rng = np.random.default_rng(1)
    layers = [layer for sizes in SIZES for layer in made_layers(rng, weights, *sizes)]
    takes = {op.name for op in OPS.values() if any(types.get("W") == weights for types in op.type_choices)}
    assert {layer.op for layer in layers} == takes
    for layer, found in zip(layers, library_outputs(layers, path), strict=True):
        expected = function_output(layer, weights)
        assert np.isfinite(expected).all(), layer.op
        assert np.ptp(expected) > 0, layer.op
        assert_same_bits(found, expected, layer, path)


@EVERY_PATH
@pytest.mark.parametrize("weights", ELEMENT_TYPES["W"])
def test_every_activation_is_as_exact_as_the_numbers_are(weights: ElementType, path: str) -> None:
    # The MLP is one expert with one feature and weights 1, so its output is the activation. int8 represents a row of a
    # single number exactly, because each row has its own scale.
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    x[:6] = np.nan, np.inf, -0.0, 1e30, -1e30, -1e4
    x = x.astype(ml_dtypes.bfloat16).astype(np.float32) if weights == "bf16" else x
    nothing, scale = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    one = np.ones((1, 1, 1), {"float": np.float32, "bf16": ml_dtypes.bfloat16, "i8": np.int8, "i4": ml_dtypes.int4}[weights])
    scale = scale[None].astype(np.float16) if weights == "i4" else scale
    mlp = {"w1": one, "b1": nothing, "w2": one, "b2": nothing}
    mlp |= {"w1_scale": scale, "w2_scale": scale} if weights in ("i8", "i4") else {}
    layers = [Layer("VmoeExpertMlp", {"buf": x[None, :, None], **mlp}, {"activation": i}) for i in range(len(ACTIVATIONS))]
    for activation, found in zip(ACTIVATIONS, library_outputs(layers, path), strict=True):
        with np.errstate(invalid="ignore"):  # infinity times 0
            expected = activate(x.astype(np.float64), activation)
        assert not np.isfinite(found[0, :2]).any()
        exact = {"rtol": 2**-8, "atol": 1e-6} if weights == "bf16" else {"rtol": 4e-7, "atol": 4e-7}
        np.testing.assert_allclose(found[0, 2:, 0], expected[2:], **exact)


@EVERY_PATH
@pytest.mark.parametrize("weights", [weights for weights in ELEMENT_TYPES["W"] if weights != "i4"])
def test_the_class_token_has_the_bits_that_it_has_among_all_tokens(weights: ElementType, path: str) -> None:
    rng = np.random.default_rng(4)
    layers = []
    for images, tokens, width, heads in ((1, 1, 64, 4), (7, 17, 70, 7), (9, 50, 96, 3), (5, 197, 128, 2)):
        inputs = {"x": normal(rng, images, tokens, width), "ln_scale": normal(rng, width), "ln_bias": normal(rng, width)}
        for name in "qkvo":
            inputs |= matrix(rng, weights, f"w{name}", (), width, width) | {f"b{name}": normal(rng, width)}
        if weights == "float":
            inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
        layers += [Layer(op, inputs, {"num_heads": heads}) for op in ATTENTION_BLOCKS]
    found = library_outputs(layers, path)
    for every, alone in zip(found[::2], found[1::2], strict=True):
        assert np.isfinite(every).all()
        np.testing.assert_array_equal(alone.view(np.int32), every[:, :1].view(np.int32))


@EVERY_PATH
def test_rows_of_every_kind_have_the_bits_of_the_function_in_int8(path: str) -> None:
    rng = np.random.default_rng(2)
    layers = []
    for depth in (4, 64, 130, 300):
        rows = strange_rows(depth)
        linear = {"x": rows[None], "w": int8(rng, depth, 37), "b": normal(rng, 37), "w_scale": small_scales(rng, 37)}
        layers.append(Layer("VmoeLinear", linear))
        mlp = {"w1": int8(rng, depth, 64), "b1": normal(rng, 64) * 0 + 1000, "w2": int8(rng, 64, depth)}
        mlp |= {"b2": normal(rng, depth), "w1_scale": small_scales(rng, 64) / 1e6, "w2_scale": small_scales(rng, depth)}
        layers.append(Layer("VmoeDenseMlp", {"x": rows[None], **mlp}, hidden=64))
        experts = {name: np.stack([array, array[..., ::-1]]) for name, array in mlp.items()}
        layers.append(Layer("VmoeExpertMlp", {"buf": np.stack([rows, rows[::-1]]), **experts}, hidden=64))
    for layer, found in zip(layers, library_outputs(layers, path), strict=True):
        expected = function_output(layer, "i8")
        finite = np.isfinite(layer.inputs["buf" if layer.op == "VmoeExpertMlp" else "x"]).all(axis=-1)
        assert 0 < finite.sum() < finite.size
        assert np.isfinite(expected[finite]).all()
        assert_same_bits(found[finite], expected[finite], layer, path)
        for outputs in (found, expected):
            assert not np.isfinite(outputs[~finite]).any(), layer.op


@EVERY_PATH
def test_rows_have_the_same_bits_in_every_number_of_rows_in_int4(path: str) -> None:
    # Some paths multiply few rows by other instructions than many rows.
    rng = np.random.default_rng(5)
    for depth in (64, 130, 300, 768):
        rows = np.concatenate([strange_rows(depth), normal(rng, 12, depth), strange_rows(depth)])
        mlp = mlp_inputs(rng, "i4", (1,), depth, 64)
        counts = (40, 1, 8, 9, 33)
        assert len(rows) == max(counts)
        layers = [Layer("VmoeExpertMlp", {"buf": rows[None, -count:], **mlp}, hidden=64) for count in counts]
        every, *some = library_outputs(layers, path)
        finite = np.isfinite(rows).all(axis=1)
        np.testing.assert_array_equal(np.isfinite(every[0]), np.broadcast_to(finite[:, None], every[0].shape))
        for part in some:
            np.testing.assert_array_equal(part[0].view(np.int32), every[0, -part.shape[1] :].view(np.int32))


@EVERY_PATH
def test_sums_in_bfloat16_differ_from_the_function_by_their_order_alone(path: str) -> None:
    rng = np.random.default_rng(3)
    layers = []
    for depth, columns in ((1, 33), (2, 5), (31, 64), (64, 31), (130, 97), (768, 40), (3072, 17)):
        x = normal(rng, 2, 19, depth)
        x[0, ::2] = (x[0, ::2].view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)  # halfway between two bfloat16
        x[1, 0], x[1, 1] = 0, -0.0
        w = normal(rng, depth, columns).astype(ml_dtypes.bfloat16)
        layers.append(Layer("VmoeLinear", {"x": x, "w": w, "b": normal(rng, columns)}))
    for layer, found in zip(layers, library_outputs(layers, path), strict=True):
        x, w, b = layer.inputs["x"].astype(ml_dtypes.bfloat16), layer.inputs["w"], layer.inputs["b"]
        terms = np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)) + np.abs(b)
        difference = np.abs(found.astype(np.float64) - function_output(layer, "bf16"))
        # Both results are sums of n terms. A sum's error is at most n times the rounding error of the sum of the terms'
        # absolute values.
        assert (difference <= 2 * (x.shape[-1] + 1) * 2.0**-24 * terms).all()


def made_layers(
    rng: np.random.Generator, weights: ElementType, width: int, hidden: int, chunk: int, activation: int
) -> list[Layer]:
    """Return one call for each op that has weights, with the given sizes."""
    chunk = chunk if weights in ("i8", "i4") else 0
    attributes = {"hidden_chunk": chunk, "activation": activation}
    x = rows_of(rng, weights, 2, TOKENS, width)
    norm = {"ln_scale": np.zeros(width, np.float32), "ln_bias": rows_of(rng, weights, width)}
    mlp, experts = (mlp_inputs(rng, weights, matrices, width, hidden) for matrices in ((), (2,)))
    # If there are several chunks, results would depend on the order in which chunks, bias and x are added. The bias and x
    # are therefore 0 in that case.
    base = x * np.float32(not chunk)
    unbiased, unbiased_experts = (inputs | {"b2": 0 * inputs["b2"]} for inputs in (mlp, experts))
    # Each token has one expert and one dropped choice. With a second expert, the order of additions would matter.
    token = np.arange(2 * TOKENS, dtype=np.int32).reshape(2, TOKENS)
    slot = np.stack([token % 2 * (2 * TOKENS) + token, np.full_like(token, -1)], axis=2)
    src = np.stack([np.where(token % 2 == expert, token, -1).ravel() for expert in range(2)])
    routes = {"slot": slot, "weight": np.ones(slot.shape, np.float32), "src": src.astype(np.int32)}
    linear = matrix(rng, weights, "w", (), width, hidden) | {"b": rows_of(rng, weights, hidden)}
    attention: Inputs = {}
    for name in "qkvo":
        attention |= matrix(rng, weights, f"w{name}", (), width, width)
        attention[f"b{name}"] = rows_of(rng, weights, width) * np.float32(name != "o")
    heads = next(count for count in (4, 3, 1) if width % count == 0)
    layers = [
        Layer("VmoeLinear", {"x": x, **linear}),
        Layer("VmoeDenseMlp", {"x": x, **mlp}, attributes, hidden),
        Layer("VmoeExpertMlp", {"buf": x, **experts}, attributes, hidden),
        Layer("VmoeMlpBlock", {"x": base, **norm, **unbiased}, attributes, hidden),
        Layer("VmoeExpertBlock", {"x": base, **norm, **routes, **unbiased_experts}, attributes, hidden),
        *(Layer(op, {"x": x, **norm, **attention}, {"num_heads": heads}) for op in ATTENTION_BLOCKS),
    ]
    return [layer for layer in layers if weights != "i4" or layer.op in EXPERT_OPS]


def mlp_inputs(rng: np.random.Generator, weights: ElementType, experts: tuple[int, ...], width: int, hidden: int) -> Inputs:
    """Return an MLP's weights and biases. Its hidden values are at least 16, and differ from one another."""
    inputs = matrix(rng, weights, "w1", experts, width, hidden) | matrix(rng, weights, "w2", experts, hidden, width)
    inputs["b1"] = np.float32(40 * width) + rng.integers(16, 90, (*experts, hidden)).astype(np.float32)
    inputs["b2"] = rows_of(rng, weights, *experts, width)
    return inputs


def matrix(
    rng: np.random.Generator, weights: ElementType, name: str, experts: tuple[int, ...], depth: int, columns: int
) -> Inputs:
    """Return a weight matrix, or one matrix per expert. If the weights' type needs scales, return them too."""
    if weights == "i8":
        scale = rng.random((*experts, columns), np.float32) / 128 + np.float32(1e-3)
        return {name: int8(rng, *experts, depth, columns), f"{name}_scale": scale}
    if weights == "i4":
        scale = rng.random((*experts, -(-depth // 64), columns)) / 8 + 1e-2
        steps = rng.integers(-7, 8, (*experts, depth, columns)).astype(ml_dtypes.int4)
        return {name: steps, f"{name}_scale": scale.astype(np.float16)}
    return {name: rng.integers(-2, 3, (*experts, depth, columns)).astype(ml_dtypes.bfloat16)}


def rows_of(rng: np.random.Generator, weights: ElementType, *shape: int) -> np.ndarray:
    """Return activations or biases. For bfloat16, they are integers, so that sums are not rounded."""
    return normal(rng, *shape) if weights in ("i8", "i4") else rng.integers(-4, 5, shape).astype(np.float32)


def strange_rows(depth: int) -> np.ndarray:
    """Return f32[14,depth] with unusual rows.

    They include zeros, ties, NaN, infinities, and rows whose scale or its reciprocal is denormal or infinite.
    """
    rng = np.random.default_rng(depth)
    halves = np.resize(np.arange(-126.5, 127, 1).astype(np.float32), depth)
    halves[0] = 127
    beside = np.nextafter(halves, np.float32(0))
    beside[0] = 127
    one = np.zeros(depth, np.float32)
    one[depth // 2] = SMALLEST
    some = normal(rng, 9, depth)
    some[0] *= np.float32(1e-40)
    some[1] *= np.float32(1e-37)
    some[2] *= np.float32(1e30)
    some[3, ::2] = -0.0
    some[4] = np.float32(3e-39)
    some[5, 0], some[6, depth // 2], some[7, -1] = np.nan, np.inf, -np.inf
    return np.stack([np.zeros(depth, np.float32), np.full(depth, -0.0, np.float32), halves, beside, one, *some])


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def small_scales(rng: np.random.Generator, columns: int) -> np.ndarray:
    return (rng.random(columns, np.float32) + 1) / 1000


def library_outputs(layers: list[Layer], path: str) -> list[np.ndarray]:
    """Return the first output of each layer. As in exported graphs, the weights are constants."""
    calls = []
    for layer in layers:
        constants = [v.name for v in OPS[layer.op].inputs if v.name in layer.inputs and (v.type == "W" or v.scale_of)]
        calls.append(node_call(layer.op, layer.inputs, layer.attributes, constants=constants))
    return [outputs[0] for outputs in outputs_of(run_calls(calls, path))]


def function_output(layer: Layer, weights: ElementType) -> np.ndarray:
    inputs = [layer.inputs[value.name] for value in given_inputs(OPS[layer.op], weights)]
    if weights == "i4":
        return run_reference(OPS[layer.op], *inputs, **layer.attributes)[0]
    return runner("onnxruntime", layer.op, weights, hidden=layer.hidden, **layer.attributes)(*inputs)[0]


def assert_same_bits(found: np.ndarray, expected: np.ndarray, layer: Layer, path: str) -> None:
    what = f"{layer.op} { ({name: array.shape for name, array in layer.inputs.items()}) }"
    size = np.abs(expected).max(axis=-1, keepdims=True)
    if layer.hidden and path in APPROXIMATE_GELU:
        assert (np.abs(found - expected) <= 2**-6 * size).all(), what
    elif layer.op in ATTENTION_BLOCKS:  # attention has small rounding errors, which change int8 scales and so the result
        assert (np.abs(found - expected) <= 4e-6 * size).all(), what
    else:
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32), err_msg=what)
