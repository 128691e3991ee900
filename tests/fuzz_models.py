"""The one-node models that tests/cpp/op_fuzz.cc calls, and the plan that tells it what they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from moe_calls import MOE_OPS, type_choices
from onnx import TensorProto, helper, numpy_helper

from vmoe_export.ops.functions import IR_VERSION, OPSET
from vmoe_export.ops.table import DOMAIN, ELEMENT_TYPES, OPS, VERSION, ElementType, Op, Value

ONNX_TYPES = {
    "float": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
}
SETTINGS = ("capacity", "k", "bpr")
FIXED = (
    {"D": 16, "E": 8, "F": 48, "P": 10},
    {"D": 7, "E": 3, "F": 13, "P": 33},
    {"D": 1, "E": 1, "F": 1, "P": 1},
    {"D": 33, "E": 5, "F": 97, "P": 0},
    {"D": 24, "E": 2, "F": 0, "P": 49},
)


@dataclasses.dataclass(frozen=True)
class Model:
    """One model: how its node is written, and what must come of it: "runs", "never-loads" or "never-runs"."""

    op: str
    expected: str = "runs"
    bf16: bool | str = False
    """Whether the expert weights are bfloat16, or the name of the one input that is."""
    fixed: Mapping[str, int] | None = None
    """Sizes of constant weights; None: weights are fed."""
    attributes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Inputs and outputs that the node doesn't have."""
    tokens: ElementType = "float"
    gates: ElementType = "float"


def models() -> Iterator[Model]:
    """Every op with weights fed and constant, in every type, settings as inputs and attributes, right and wrong."""
    for name, op in OPS.items():
        if name.endswith("Block"):  # the library has no kernels of these
            continue
        attributes = {"num_heads": 3} if name == "VmoeAttention" else {}
        has_weights = any(value.dims == ("E", "D", "F") for value in op.inputs)
        for bf16 in (False, True) if has_weights else (False,):
            flags = ({"dispatch_bf16": 0}, {"dispatch_bf16": 1}) if "dispatch_bf16" in op.attributes else (attributes,)
            for flag in flags:
                yield Model(name, bf16=bf16, attributes=flag)
                if weights_of(op):
                    yield from (Model(name, bf16=bf16, attributes=flag, fixed=fixed) for fixed in FIXED)
    for name in MOE_OPS:
        yield from (Model(name, tokens=tokens, gates=gates) for tokens, gates in type_choices(name)[1:])
    yield Model("VmoeCombine", "never-loads", tokens="fp16", gates="bf16")
    yield from (Model("VmoeAttention", attributes={"num_heads": heads}) for heads in (1, 2, 5))
    yield from (Model("VmoeAttention", "never-loads", attributes={"num_heads": heads}) for heads in (0, -1))
    for name in ("VmoeRoute", "VmoeRouteDispatch", "VmoeSparseMlp"):
        yield Model(name, attributes={"capacity": 3, "k": 2, "bpr": 0}, left_out=SETTINGS)
        yield Model(name, attributes={"capacity": 500, "k": 1, "bpr": 1}, left_out=SETTINGS)
        yield Model(name, "never-runs", attributes={"capacity": 2, "k": 3}, left_out=("bpr",))
        yield Model(name, attributes={"capacity": 7, "k": 100, "bpr": 1})  # the inputs win
        yield Model(name, "never-runs", left_out=SETTINGS)
        yield Model(name, "never-runs", attributes={"capacity": 1, "bpr": 1}, left_out=SETTINGS)
        for wrong in ({"capacity": 0}, {"capacity": -(2**63)}, {"k": 0}, {"k": -5}, {"bpr": 2}, {"bpr": -1}):
            yield Model(name, "never-loads", attributes=wrong)
    yield Model("VmoeSparseMlp", left_out=("slot", "weight"))
    yield Model("VmoeSparseMlp", left_out=("weight",), bf16=True, fixed=FIXED[1])
    for name in ("VmoeSparseMlp", "VmoeExpertMlp"):
        yield Model(name, "never-loads", attributes={"dispatch_bf16": 2})
        yield Model(name, "never-loads", bf16="w1")
        yield Model(name, "never-loads", bf16="w2", fixed=FIXED[0])
    yield Model("VmoeSparseMlp", "never-loads", fixed={**FIXED[0], "b2.D": 15})
    yield Model("VmoeDenseMlp", "never-loads", fixed={**FIXED[0], "w2.F": 47})


def weights_of(op: Op) -> list[Value]:
    """The inputs that an exporter writes as constants."""
    names = ("router", "w", "b", "w1", "b1", "w2", "b2")
    return [value for value in op.inputs if value.name in names]


def write_models(folder: Path) -> int:
    """Writes the models and plan.txt into a folder; returns the number of models."""
    plan: list[str] = []
    count = 0
    for model in models():
        plan += [f"model {count}.onnx {model.op} {model.expected}", *_write(model, folder / f"{count}.onnx"), "end"]
        count += 1
    (folder / "plan.txt").write_text("\n".join(plan) + "\n")
    return count


def _write(model: Model, file: Path) -> list[str]:
    """Writes one model; returns its lines of the plan."""
    op = OPS[model.op]
    generator = np.random.default_rng(0)
    constants = [] if model.fixed is None else weights_of(op)
    inputs = [value for value in op.inputs if value.name not in model.left_out and not value.scale_of]
    outputs = [value for value in op.outputs if value.name not in model.left_out]
    fed = [value for value in inputs if value not in constants]
    names = [value.name if value in inputs else "" for value in op.inputs]
    while not names[-1]:
        names.pop()
    node = helper.make_node(op.name, names, [value.name for value in outputs], domain=DOMAIN, **dict(model.attributes))
    initializers = []
    for value in constants:
        shape = [(model.fixed or {}).get(f"{value.name}.{dim}", (model.fixed or {}).get(dim, 0)) for dim in value.dims]
        array = generator.standard_normal(shape).astype(np.float32)
        initializers.append(
            numpy_helper.from_array(array.astype(ml_dtypes.bfloat16) if _type(model, value) == "bf16" else array, value.name)
        )
    graph = helper.make_graph(
        [node],
        op.name,
        [helper.make_tensor_value_info(value.name, ONNX_TYPES[_type(model, value)], None) for value in fed],
        [helper.make_tensor_value_info(value.name, ONNX_TYPES[_type(model, value)], None) for value in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())
    sizes = {dim: (model.fixed or {})[dim] for value in constants for dim in value.dims}
    return [
        *(f"input {value.name} {_type(model, value)} {''.join(value.dims)}" for value in fed),
        *(f"output {value.name} {_type(model, value)} {''.join(value.dims)}" for value in outputs),
        *(f"size {dim} {size}" for dim, size in sizes.items()),
        *(f"attribute {name} {number}" for name, number in model.attributes.items()),
    ]


def _type(model: Model, value: Value) -> str:
    if value.type != "W":
        return {"T": model.tokens, "R": model.gates}.get(value.type, ELEMENT_TYPES[value.type][0])
    return "bf16" if model.bf16 in (True, value.name) else "float"
