"""Writes the test vectors in conformance/, which are routing cases and one-node models for every op.

    python tests/support/make_conformance.py [FOLDER]

The numpy reference computes the expected values in float64. Inputs are made of whole numbers, so that the files have the
same bytes on every machine. Some choices and roundings depend on computed numbers. Inputs are therefore drawn again until
changing them by a millionth of their values leaves the result nearly unchanged.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import conformance_cases as cases
import numpy as np
import onnx
import safetensors.numpy
from conformance_cases import Arrays, gates, numbers
from onnx import numpy_helper
from op_models import NUMPY_TYPES, USUAL, attribute_values, element_types, given_inputs, one_node_model, run_reference

from vmoe_export.ops.table import DOMAIN, OPS, Op
from vmoe_runtime.capacity import compute_slots

FOLDER = Path(__file__).parents[2] / "conformance"


def write(folder: Path = FOLDER) -> None:
    """Write vectors.json, routing.safetensors and ops/ into a folder. Replace them if they exist."""
    shutil.rmtree(folder / "ops", ignore_errors=True)
    ops = [_write_op(folder / "ops" / name, op, options) for name, (op, options) in cases.OP_ROWS.items()]
    tensors: Arrays = {}
    routing = []
    for case in cases.routing_cases():
        op, options = cases.OP_ROWS[case.model]
        given = case.inputs | {name: np.array([number]) for name, number in case.settings.items()}
        inputs = _typed(op, given, options)
        outputs = expected(op, inputs, options)
        assert case.name in ("merge_tied", "merge_nan") or _is_stable(op, inputs, options)
        described = _described(op, inputs, outputs, options)
        if "slot" in outputs:
            outputs["kept"], described["outputs"]["kept"] = outputs["slot"] >= 0, "exact"
        routing.append({"name": case.name, "what": case.what, "model": case.model, **described})
        stored = {**{name: inputs[name] for name in case.inputs}, **outputs}
        tensors |= {f"{case.name}/{name}": np.array(array, order="C") for name, array in stored.items()}
    names = ("pairs", "experts", "ratio", "rounding", "multiple_of")
    capacity = [{**dict(zip(names, row, strict=True)), "slots": compute_slots(*row)} for row in cases.RATIOS]
    listed = {"format": 1, "tolerances": cases.TOLERANCES, "capacity": capacity, "routing": routing, "ops": ops}
    safetensors.numpy.save_file(tensors, folder / "routing.safetensors")
    (folder / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n")


def expected(op: Op, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
    """Return the numpy reference's outputs.

    They are computed in float64 and then converted to the types of the op's outputs.
    """
    weights = [value.name for value in op.inputs if value.type == "W"]
    wide = {name: a.astype(float) if a.dtype.kind == "f" and name not in weights else a for name, a in inputs.items()}
    found = run_reference(op, *(wide.get(value.name) for value in op.inputs), **_attributes(op, options))
    return _typed(op, dict(zip([value.name for value in op.outputs], found, strict=False)), options)


def _attributes(op: Op, options: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in options.items() if name in op.attributes}


def _types(options: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(options.get(name, "float") for name in ("W", "T"))


def _typed(op: Op, arrays: Arrays, options: Mapping[str, Any]) -> Arrays:
    types = element_types(op, *_types(options))
    values = {value.name: value for value in (*op.inputs, *op.outputs)}
    return {name: np.asarray(array, NUMPY_TYPES[types[values[name].type]]) for name, array in arrays.items()}


def _described(op: Op, inputs: Arrays, outputs: Arrays, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry for a call in vectors.json.

    The entry lists the inputs in their order, and the tolerance for each output.
    """
    copies = ("weight", "buf") if op.name in ("VmoeRoute", "VmoeDispatch", "VmoeRouteDispatch") else ("merged_sizes",)
    given = [value for value in op.inputs if value.name in inputs]
    return {
        "op": op.name,
        "types": {name: options[name] for name in ("W", "T") if name in options},
        "attributes": attribute_values(op, **_attributes(op, options)),
        "settings": {value.name: int(inputs[value.name][0]) for value in given if value.type == "i64"},
        "inputs": [value.name for value in given if value.type != "i64" and value.name in cases.FED],
        "outputs": {
            name: "exact" if array.dtype.kind == "i" or name in copies else "fp16" if array.dtype.itemsize == 2 else "sum"
            for name, array in outputs.items()
        },
    }


def _write_op(folder: Path, op: Op, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write an op's model, inputs and outputs as a folder in the form of ONNX's backend tests.

    The model contains the weights. The files input_*.pb and output_*.pb are numbered in the order of the model's inputs and
    outputs. Return the op's entry in vectors.json.
    """
    drawn = (_inputs(f"{folder.name} {number}", op, options) for number in range(100))
    inputs = next(made for made in drawn if _is_stable(op, made, options))
    outputs = expected(op, inputs, options)
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    fed = {name: array for name, array in inputs.items() if name in cases.FED or name in cases.SETTINGS}
    for kind, arrays in (("input", fed), ("output", outputs)):
        for number, (name, array) in enumerate(arrays.items()):
            (data / f"{kind}_{number}.pb").write_bytes(_bytes(numpy_helper.from_array(array, name)))
    weights = {name: array for name, array in inputs.items() if name not in fed}
    (folder / "model.onnx").write_bytes(_bytes(_model(op, weights, options)))
    return {"name": folder.name, **_described(op, inputs, outputs, options)}


def _inputs(name: str, op: Op, options: Mapping[str, Any]) -> Arrays:
    """Return consistent inputs for an op: its slots, weights and tokens come from the same routing."""
    width, _ = _types(options)
    sizes = cases.SIZES | {key: size for key, size in options.items() if key in cases.SIZES}
    shares = gates(name, *(sizes[dim] for dim in "GSE"))
    settings = {key: np.array([number]) for key, number in cases.SETTINGS.items()}
    routed = {"gates": shares, **{key: settings[key] for key in ("capacity", "k", "bpr")}}
    made = {"gates": shares, **expected(OPS["VmoeRoute"], routed, {})}
    made["token"] = np.tile(np.arange(sizes["O"]), (sizes["N"], 1))
    values = given_inputs(op, width, options.get("given", USUAL))
    made |= {value.name: settings[value.name] for value in values if value.type == "i64"}
    for value in [value for value in values if value.name not in made]:
        dims = value.grouped_dims if width == "i4" and value.scale_of else value.dims
        array = numbers(f"{name} {value.name}", *(sizes.get(dim, 1) for dim in dims))
        if value.name == "sizes":
            array = np.floor(2 * np.abs(array)) + 1
        elif value.scale_of or value.name in ("dispatch", "combine"):
            array = (np.abs(array) + 0.5) / {"i8": 512, "i4": 16}.get(width, 64)
        elif value.type == "W":
            array = np.rint(array * {"i8": 63, "i4": 3.5}[width]) if width in ("i8", "i4") else array / 4
        made[value.name] = array
    return _typed(op, {value.name: made[value.name] for value in values}, options)


def _is_stable(op: Op, inputs: Arrays, options: Mapping[str, Any]) -> bool:
    """Return whether the outputs change only slightly after each of several small random changes to the tokens."""
    outputs = expected(op, inputs, options)
    moving = [name for name in cases.TOKENS if name in inputs and inputs[name].dtype == np.float32]
    for number in range(8 if moving else 0):
        moved = {name: inputs[name] * (1 + 1e-6 * np.sign(numbers(f"{number}", *inputs[name].shape))) for name in moving}
        found = expected(op, inputs | moved, options)
        if not all(np.allclose(found[name], array, 1e-5, 1e-5, equal_nan=True) for name, array in outputs.items()):
            return False
    return True


def _model(op: Op, weights: Arrays, options: Mapping[str, Any]) -> onnx.ModelProto:
    """Return a model that consists of one node, after checking it.

    Weights are initializers. The model includes only those functions that the node needs.
    """
    hidden, given = options.get("F", cases.SIZES["F"]), options.get("given", USUAL)
    model = one_node_model(op, *_types(options), hidden=hidden, given=given, **_attributes(op, options))
    (node,) = (node for node in model.graph.node if node.op_type == op.name)
    node.input[:] = [name.removesuffix("_narrow") for name in node.input]
    inputs = [value for value in model.graph.input if value.name not in weights]
    functions = _called({function.name: function for function in model.functions}, op.name)
    for field, kept in ((model.graph.node, [node]), (model.graph.input, inputs), (model.functions, functions)):
        copies = [type(message).FromString(message.SerializeToString()) for message in kept]
        del field[:]
        field.extend(copies)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def _called(bodies: Mapping[str, onnx.FunctionProto], name: str) -> list[onnx.FunctionProto]:
    """Return an op's function, preceded by all functions that it calls."""
    called = sorted({node.op_type for node in bodies[name].node if node.domain == DOMAIN})
    return [*(body for op in called for body in _called(bodies, op)), bodies[name]]


def _bytes(message: Any) -> bytes:
    return message.SerializeToString(deterministic=True)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:2]))
