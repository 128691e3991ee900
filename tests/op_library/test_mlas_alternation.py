"""The op library beside ONNX Runtime's own int8 products on one thread: both may set the registers of a matrix unit.

Sessions of the two take turns, and nodes of the two within one graph; every answer must be that of a process in which
the other never ran.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from cpu_paths import Call, Outputs, outputs_of, run_calls
from onnx import TensorProto, helper, numpy_helper
from op_models import node_call
from routing_cases import same_bits

from vmoe_export.ops.table import DOMAIN, IR_VERSION, OPS, OPSET, VERSION, ElementType, Value
from vmoe_runtime.op_library import find_library, library_path

if find_library() is None:
    pytest.skip("this installation has no op library", allow_module_level=True)

CALLS = 10_000  # of both kinds together, in both orders
SIZES = {"N": 2, "T": 33, "D": 64, "F": 128, "P": 96, "G": 2, "S": 33, "E": 3, "K": 2, "M": 20, "1": 1}
ROWS, DEPTH, COLUMNS = 66, 256, 192
"""Of ONNX Runtime's products: several of its tiles in every direction."""
BLOCKS = ("VmoeAttentionBlock", "VmoeMlpBlock", "VmoeExpertBlock", "VmoeLinear")
SHORT: tuple[ElementType, ...] = ("bf16", "i8")


@dataclass(frozen=True)
class Case:
    """A call, and what it gives in a process of its own."""

    name: str
    call: Call
    alone: Outputs


def block_inputs(op_name: str, weights: ElementType) -> dict[str, np.ndarray]:
    op = OPS[op_name]
    rng = np.random.default_rng([1, *op_name.encode()])
    given = [value for value in op.inputs if not value.scale_of or weights == "i8"]
    arrays = {value.name: block_input(rng, value, weights) for value in given}
    return arrays | (routing(rng) if "slot" in arrays else {})


def block_attributes(op_name: str, weights: ElementType) -> dict[str, int]:
    values = {"num_heads": 4, "hidden_chunk": 64 if weights == "i8" else 0}
    return {name: values.get(name, 0) for name in OPS[op_name].attributes}


def block_call(op_name: str, weights: ElementType, x: np.ndarray | None = None) -> Call:
    inputs = block_inputs(op_name, weights) | ({} if x is None else {"x": x})
    constants = [name for name in inputs if name not in ("x", "slot", "weight", "src")]
    return node_call(op_name, inputs, block_attributes(op_name, weights), constants=constants)


def block_input(rng: np.random.Generator, value: Value, weights: ElementType) -> np.ndarray:
    shape = [SIZES[dim] for dim in value.dims]
    if value.type == "W" and weights == "i8":
        return rng.integers(-127, 128, shape, np.int8)
    array = rng.standard_normal(shape).astype(np.float32)
    if value.scale_of:
        return np.abs(array) / 1000
    return (array / 8).astype(ml_dtypes.bfloat16) if value.type == "W" else array


def routing(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Some tokens in places of the experts, none in two places of one expert."""
    tokens, choices, places = SIZES["G"] * SIZES["S"], SIZES["K"], SIZES["M"]
    slot = np.full((tokens, choices), -1, np.int32)
    src = np.full((SIZES["E"], places), -1, np.int32)
    for choice in range(choices):
        chosen = rng.choice(tokens, places, replace=False)
        slot[chosen, choice] = choice * places + np.arange(places)
        src[choice] = chosen
    return {"slot": slot.reshape(SIZES["G"], SIZES["S"], choices), "src": src}


def matmul_integer_call() -> Call:
    """Unsigned times signed integers, which is what matrix units multiply, with zero points."""
    rng = np.random.default_rng(2)
    return whole_call(
        [helper.make_node("MatMulInteger", ["a", "w", "a_zero"], ["y"])],
        {"a": rng.integers(0, 256, (ROWS, DEPTH), np.uint8)},
        {"w": rng.integers(-128, 128, (DEPTH, COLUMNS), np.int8), "a_zero": np.array(113, np.uint8)},
        {"y": TensorProto.INT32},
    )


def exact_sums(call: Call) -> np.ndarray:
    assert isinstance(call.model, bytes)
    initializers = onnx.load_from_string(call.model).graph.initializer
    constants = {tensor.name: numpy_helper.to_array(tensor).astype(np.int32) for tensor in initializers}
    exact: np.ndarray = (call.feeds["a"].astype(np.int32) - constants["a_zero"]) @ constants["w"]
    return exact


def qlinear_call() -> Call:
    rng = np.random.default_rng(3)
    constants: dict[str, np.ndarray] = {
        "w": rng.integers(-128, 128, (DEPTH, COLUMNS), np.int8),
        "a_scale": np.array(0.02, np.float32),
        "a_zero": np.array(128, np.uint8),
        "w_scale": np.array(0.01, np.float32),
        "w_zero": np.array(0, np.int8),
        "y_scale": np.array(0.7, np.float32),
        "y_zero": np.array(120, np.uint8),
    }
    names = ["a", "a_scale", "a_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    return whole_call(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        {"a": rng.integers(0, 256, (ROWS, DEPTH), np.uint8)},
        constants,
        {"y": TensorProto.UINT8},
    )


def dynamic_call() -> Call:
    """What dynamic quantization makes of a MatMul; ONNX Runtime runs it as one node."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "a_scale", "a_zero"]),
        helper.make_node("MatMulInteger", ["a", "w", "a_zero", "w_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a_scale", "w_scale"], ["scale"]),
        helper.make_node("Mul", ["wide", "scale"], ["y"]),
    ]
    constants: dict[str, np.ndarray] = {
        "w": rng.integers(-128, 128, (DEPTH, COLUMNS), np.int8),
        "w_zero": np.array(0, np.int8),
        "w_scale": np.array(0.01, np.float32),
    }
    x = rng.standard_normal((ROWS, DEPTH)).astype(np.float32)
    return whole_call(nodes, {"x": x}, constants, {"y": TensorProto.FLOAT})


def whole_call(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    outputs: Mapping[str, int],
) -> Call:
    graph = helper.make_graph(
        nodes,
        "products",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return Call(model.SerializeToString(), feeds)


def case(name: str, call: Call) -> Case:
    (alone,) = outputs_of(run_calls([call], os.environ.get("VMOE_CPU_PATH"), threads=1))
    return Case(name, call, alone)


@pytest.fixture(scope="module")
def blocks() -> list[Case]:
    return [case(f"{name} {weights}", block_call(name, weights)) for name in BLOCKS for weights in SHORT]


@pytest.fixture(scope="module")
def products() -> list[Case]:
    calls = {"MatMulInteger": matmul_integer_call(), "QLinearMatMul": qlinear_call(), "dynamic": dynamic_call()}
    cases = [case(name, call) for name, call in calls.items()]
    assert same_bits(cases[0].alone, [exact_sums(calls["MatMulInteger"])])
    return cases


def session(call: Call) -> onnxruntime.InferenceSession:
    """On one thread, the caller's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(library_path())
    return onnxruntime.InferenceSession(call.model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("order", ["library first", "ONNX Runtime first"])
def test_sessions_in_turn_answer_as_alone(order: str, blocks: list[Case], products: list[Case]) -> None:
    # 8 blocks and 3 products: every one follows and precedes every one of the others.
    kinds = (blocks, products) if order == "library first" else (products, blocks)
    turns = itertools.chain.from_iterable(zip(*map(itertools.cycle, kinds), strict=True))
    sessions = {case.name: session(case.call) for case in itertools.chain(*kinds)}
    for number, turn in enumerate(itertools.islice(turns, CALLS // 2)):
        found = sessions[turn.name].run(None, turn.call.feeds)
        assert same_bits(found, turn.alone), f"call {number}, {turn.name}"


CHAIN: tuple[tuple[str, ElementType], ...] = (
    ("VmoeAttentionBlock", "bf16"), ("VmoeMlpBlock", "i8"), ("VmoeAttentionBlock", "i8"), ("VmoeMlpBlock", "bf16"),
)  # fmt: skip
CHAIN_WEIGHTS = np.random.default_rng(5).integers(-128, 128, (SIZES["D"], SIZES["D"]), np.int8)


def chain_call() -> Call:
    """One graph in which each block takes what a product of ONNX Runtime's gives, and the other way round."""
    nodes = []
    constants: dict[str, np.ndarray] = {"integers": CHAIN_WEIGHTS, "small": np.array(1e-5, np.float32)}
    outputs: dict[str, int] = {}
    for step, (op_name, weights) in enumerate(CHAIN):
        inputs = block_inputs(op_name, weights)
        names = [f"{name}_{step}" if name in inputs else "" for name in (value.name for value in OPS[op_name].inputs)]
        while not names[-1]:
            names.pop()
        constants |= {f"{name}_{step}": array for name, array in inputs.items() if name != "x"}
        block = helper.make_node(op_name, names, [f"y_{step}"], domain=DOMAIN)
        block.attribute.extend(itertools.starmap(helper.make_attribute, block_attributes(op_name, weights).items()))
        nodes += [
            block,
            helper.make_node("DynamicQuantizeLinear", [f"y_{step}"], [f"a_{step}", f"s_{step}", f"zero_{step}"]),
            helper.make_node("MatMulInteger", [f"a_{step}", "integers", f"zero_{step}"], [f"sums_{step}"]),
            helper.make_node("Cast", [f"sums_{step}"], [f"wide_{step}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"wide_{step}", "small"], [f"x_{step + 1}"]),
        ]
        outputs |= {f"y_{step}": TensorProto.FLOAT, f"a_{step}": TensorProto.UINT8, f"zero_{step}": TensorProto.UINT8}
        outputs |= {f"sums_{step}": TensorProto.INT32, f"x_{step + 1}": TensorProto.FLOAT}
    return whole_call(nodes, {"x_0": block_inputs(*CHAIN[0])["x"]}, constants, outputs)


def test_nodes_of_one_graph_answer_as_alone() -> None:
    call = chain_call()
    runner = session(call)
    first = runner.run(None, call.feeds)
    values = dict(zip((output.name for output in runner.get_outputs()), first, strict=True)) | dict(call.feeds)
    for step, (op_name, weights) in enumerate(CHAIN):
        found = [values[f"y_{step}"]]
        assert same_bits(found, case("", block_call(op_name, weights, values[f"x_{step}"])).alone), f"block {step}"
        rows = values[f"a_{step}"].astype(np.int32) - values[f"zero_{step}"].astype(np.int32)
        np.testing.assert_array_equal(values[f"sums_{step}"], rows @ CHAIN_WEIGHTS.astype(np.int32))
    for _ in range(CALLS // 20):
        assert same_bits(runner.run(None, call.feeds), first)
