"""Whether OpenVINO in bfloat16 damages the memory of its process, on a CPU with AMX: for a bug report to OpenVINO.

    OMP_NUM_THREADS=1 python benchmarks/openvino_memory.py

runs one block of a small ViT with random weights, and then checks arrays that OpenVINO should not have changed.
docs/troubleshooting.md describes the fault. This program has not run on a CPU with AMX.
"""

from __future__ import annotations

import numpy as np
import openvino
from onnx import TensorProto, helper, numpy_helper

BATCH, TOKENS, WIDTH, HEADS, MLP, CLASSES = 1, 50, 64, 4, 128, 10
random, nodes, constants = np.random.default_rng(0), [], []


def constant(array: np.ndarray) -> str:
    """Adds a constant, and returns its name."""
    constants.append(numpy_helper.from_array(array, f"constant_{len(constants)}"))
    return constants[-1].name


def op(kind: str, *inputs: str, **attributes: object) -> str:
    """Adds a node, and returns the name of its output."""
    nodes.append(helper.make_node(kind, inputs, [f"{kind}_{len(nodes)}"], **attributes))
    return nodes[-1].output[0]


def dense(x: str, rows: int, columns: int) -> str:
    """A dense layer without a bias."""
    return op("MatMul", x, constant(random.normal(0, 0.02, (rows, columns)).astype(np.float32)))


def split_heads(x: str, *order: int) -> str:
    """The heads of a query, key or value, as an axis of their own."""
    shape = constant(np.array([BATCH, TOKENS, HEADS, WIDTH // HEADS]))
    return op("Transpose", op("Reshape", x, shape), perm=order)


query, value = (split_heads(dense("x", WIDTH, WIDTH), 0, 2, 1, 3) for _ in range(2))
key = split_heads(dense("x", WIDTH, WIDTH), 0, 2, 3, 1)
mixed = op("MatMul", op("Softmax", op("MatMul", query, key), axis=-1), value)
mixed = op("Transpose", mixed, perm=[0, 2, 1, 3])
mixed = op("Reshape", mixed, constant(np.array([BATCH, TOKENS, WIDTH])))
x = op("Add", "x", dense(mixed, WIDTH, WIDTH))
x = op("Add", x, dense(op("Gelu", dense(x, WIDTH, MLP), approximate="tanh"), MLP, WIDTH))
nodes.append(helper.make_node("Identity", [dense(x, WIDTH, CLASSES)], ["logits"]))
given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, TOKENS, WIDTH])
logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, TOKENS, CLASSES])
graph = helper.make_graph(nodes, "vit_block", [given], [logits], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

core = openvino.Core()
settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
untouched = [np.zeros(256, np.float32) for _ in range(4096)]
for _ in range(100):
    answer = compiled({"x": random.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32)})["logits"]
print(openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"))
print(f"{sum(bool(array.any()) for array in untouched)} of {len(untouched)} other arrays were overwritten")
print(f"{np.isnan(answer).sum()} of {answer.size} logits are NaN")
