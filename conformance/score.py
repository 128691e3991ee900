"""Score an implementation of the vmoe ops on the test vectors in a folder.

    python score.py [--session MODULE:CLASS] [--library FILE] [--only TEXT] [FOLDER]

The implementation must have the interface of ONNX Runtime's sessions: CLASS(path of a model) opens a session, and
session.run(output names, {input name: array}) runs it. The default implementation is ONNX Runtime. With --library, ONNX
Runtime runs the ops of that library. Without --library, it runs the functions of standard ops that the models contain.

The script needs numpy and onnx. It prints every difference, and one line for each op. If anything differs, its exit code is
1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(__file__).parent
Arrays = dict[str, np.ndarray]
TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "BOOL": "?"}


@dataclass(frozen=True)
class Vector:
    """One call of an op, with its expected outputs and their tolerances. Tolerances are {atol, rtol} by output name."""

    name: str
    op: str
    model: Path
    inputs: Arrays
    outputs: Arrays
    tolerances: dict[str, dict[str, float]]


def vectors(folder: Path = FOLDER) -> Iterator[Vector]:
    """Yield all vectors in the folder. Those stored in routing.safetensors come first, followed by those in ops/."""
    listed = json.loads((folder / "vectors.json").read_text())
    tensors = read_safetensors(folder / "routing.safetensors")
    for entry in (*listed["routing"], *listed["ops"]):
        name, model = entry["name"], folder / "ops" / entry.get("model", entry["name"])
        if "model" in entry:
            inputs, outputs = ({key: tensors[f"{name}/{key}"] for key in entry[kind]} for kind in ("inputs", "outputs"))
            inputs |= {key: np.array([number], np.int64) for key, number in entry["settings"].items()}
        else:
            inputs, outputs = (_read_pb(model / "test_data_set_0", kind) for kind in ("input", "output"))
        rules = {key: listed["tolerances"][rule] for key, rule in entry["outputs"].items()}
        nearness = {key: {bound: rule[bound] for bound in ("atol", "rtol")} for key, rule in rules.items()}
        yield Vector(name, entry["op"], model / "model.onnx", inputs, outputs, nearness)


def read_safetensors(path: Path) -> Arrays:
    """Read the tensors of a safetensors file.

    The file begins with eight bytes that hold the size of a JSON header. The header and the tensor values follow.
    """
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[start + begin : start + end], TYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"]).copy()
    return arrays


def _read_pb(folder: Path, kind: str) -> Arrays:
    paths = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    tensors = [onnx.TensorProto.FromString(path.read_bytes()) for path in paths]
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in tensors}


def score(open_session: Callable[[Path], Any], chosen: Iterable[Vector]) -> list[tuple[Vector, str]]:
    """Run the chosen vectors, and return each vector with a text about its result.

    If the vector passes, the text is "". Otherwise, the text says how the outputs differ from the expected ones, or which
    error the implementation raised.
    """
    sessions: dict[Path, Any] = {}
    results = []
    for vector in chosen:
        try:
            if vector.model not in sessions:
                sessions[vector.model] = open_session(vector.model)
            wanted = [name for name in vector.outputs if name != "kept"]
            found = dict(zip(wanted, sessions[vector.model].run(wanted, vector.inputs), strict=True))
            found["kept"] = found["slot"] >= 0 if "slot" in found else None
            wrong = "; ".join(filter(None, (difference(name, found[name], vector) for name in vector.outputs)))
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:300]}"
        results.append((vector, wrong))
    return results


def difference(name: str, found: Any, vector: Vector) -> str:
    """Describe how the output `name` differs from the expected output, or return "" if it passes. NaN equals NaN."""
    found, expected = np.asarray(found), vector.outputs[name]
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{name} is {found.dtype}{list(found.shape)}, not {expected.dtype}{list(expected.shape)}"
    near = np.isclose(found.astype(np.float64), expected.astype(np.float64), **vector.tolerances[name], equal_nan=True)
    if near.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~near)[0])
    return f"{name}{list(at)} is {found[at]}, not {expected[at]} ({(~near).sum()} of {near.size} differ)"


def onnxruntime_sessions(library: str | None = None) -> Callable[[Path], Any]:
    """Return a function that opens a model in ONNX Runtime.

    If `library` is given, the returned function registers the custom ops of that library.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(library)
    return lambda path: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> int:
    """Run the program, and return its exit code."""
    parser = argparse.ArgumentParser(description="Score an implementation of the vmoe ops.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="folder with vectors.json")
    parser.add_argument("--session", help="MODULE:CLASS that opens a model; default: ONNX Runtime")
    parser.add_argument("--library", help="custom-op library for ONNX Runtime")
    parser.add_argument("--only", default="", help="only vectors whose name contains this")
    arguments = parser.parse_args()
    module, _, name = (arguments.session or "").partition(":")
    try:
        chosen = [vector for vector in vectors(arguments.folder) if arguments.only in vector.name]
        opened = getattr(importlib.import_module(module), name) if module else None
        open_session = (lambda path: opened(str(path))) if opened else onnxruntime_sessions(arguments.library)
    except Exception as error:
        parser.error(str(error))
    results = score(open_session, chosen)
    for vector, wrong in results:
        if wrong:
            print(f"{vector.name}: {wrong}")
    passed, all_ops = Counter(v.op for v, wrong in results if not wrong), Counter(v.op for v, _ in results)
    for op, count in all_ops.items():
        print(f"{op}: {passed[op]} of {count}")
    print(f"{passed.total()} of {all_ops.total()} vectors pass")
    return int(passed != all_ops or not results)


if __name__ == "__main__":
    sys.exit(main())
