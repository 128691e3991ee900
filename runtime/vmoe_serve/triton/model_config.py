"""Writes the text of a model's `config.pbtxt`: Triton's ModelConfig in protobuf's text format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vmoe_runtime.bundle.manifest import Manifest

SETTING_OUTPUT = "setting"

_THREADS = {"python": "threads", "onnxruntime": "intra_op_thread_count"}
"""Name of the parameter from which each backend reads the number of threads."""
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


class Scheduling(NamedTuple):
    """The options with which Triton runs a model.

    Attributes:
        batch_size: maximum number of images per execution. All requests in the execution count together.
        instances: number of instances of the model, which run in parallel.
        threads: threads per instance; None lets the runtime choose.
    """

    batch_size: int
    instances: int
    threads: int | None


def model_config(
    name: str,
    backend: str,
    manifest: Manifest,
    scheduling: Scheduling,
    *,
    parameters: Mapping[str, str] | None = None,
    library: Path | None = None,
) -> str:
    """Return the configuration of a model. It also tells clients how to turn logits into probabilities.

    Args:
        name: name of the model.
        backend: name of Triton's backend, "python" or "onnxruntime". With "python", the model has an additional output: the
            name of each image's setting.
        manifest: manifest of the model's bundle.
        scheduling: how Triton runs the model.
        parameters: for "python", the parameters that the model reads when it is loaded.
        library: for "onnxruntime", absolute path of the op library.
    """
    outputs = [_tensor(name, "TYPE_FP32", shape) for name, shape in manifest.answers.items()]
    if backend == "python" and manifest.profiles:
        outputs.append(_tensor(SETTING_OUTPUT, "TYPE_STRING", [1]))
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {scheduling.batch_size}",
        f"input [ {_tensor('image', _TYPES[manifest.input.dtype], manifest.input.size)} ]",
        f"output [ {', '.join(outputs)} ]",
        "dynamic_batching { }",
        f"instance_group [ {{ count: {scheduling.instances} kind: KIND_CPU }} ]",
    ]
    kind = {"probabilities": manifest.probabilities} if manifest.output == "logits" else {}
    threads = {} if scheduling.threads is None else {_THREADS[backend]: str(scheduling.threads)}
    for key, value in {**(parameters or {}), **kind, **threads}.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    if library is not None:
        lines.append(f"model_operations {{ op_library_filename: [ {_quoted(str(library))} ] }}")
    return "\n".join(lines) + "\n"


def _tensor(name: str, element: str, dims: Sequence[int]) -> str:
    return f"{{ name: {_quoted(name)} data_type: {element} dims: [ {', '.join(map(str, dims))} ] }}"


def _quoted(text: str) -> str:
    """Return a string in protobuf's text format.

    Quotes, backslashes and bytes that aren't printable ASCII are written in octal.
    """
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(text))
    return f'"{"".join(plain)}"'
