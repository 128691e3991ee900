"""The text of a model's `config.pbtxt`: Triton's ModelConfig in protobuf's text format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmoe_runtime.bundle.manifest import Manifest

SETTING_OUTPUT = "setting"

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def python_config(name: str, manifest: Manifest, batch_size: int, instances: int, parameters: Mapping[str, str]) -> str:
    """The configuration of a model for Triton's Python backend.

    Args:
        name: of the model.
        manifest: of its bundle.
        batch_size: the most images of an execution, over all of its requests.
        instances: of the model, which run side by side.
        parameters: what the model reads when it is loaded.
    """
    lines = _head(name, "python", manifest, batch_size, instances, [SETTING_OUTPUT] if manifest.profiles else [])
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def onnxruntime_config(name: str, manifest: Manifest, batch_size: int, instances: int, library: Path) -> str:
    """The configuration of a model for Triton's ONNX Runtime backend.

    Args:
        name: of the model.
        manifest: of its bundle.
        batch_size: the most images of an execution, over all of its requests.
        instances: of the model, which run side by side.
        library: the op library; an absolute path.
    """
    operations = f"model_operations {{ op_library_filename: [ {_quoted(str(library))} ] }}"
    return "\n".join([*_head(name, "onnxruntime", manifest, batch_size, instances, []), operations]) + "\n"


def _head(name: str, backend: str, manifest: Manifest, batch_size: int, instances: int, texts: Sequence[str]) -> list[str]:
    image = manifest.input
    dims = [image.height, image.width, image.channels]
    outputs = [
        _tensor(manifest.output, "TYPE_FP32", manifest.output_shape),
        *(_tensor(text, "TYPE_STRING", [1]) for text in texts),
    ]
    return [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {batch_size}",
        f"input [ {_tensor('image', _TYPES[image.dtype], dims)} ]",
        f"output [ {', '.join(outputs)} ]",
        "dynamic_batching { }",
        f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]",
    ]


def _tensor(name: str, element: str, dims: Sequence[int]) -> str:
    return f"{{ name: {_quoted(name)} data_type: {element} dims: [ {', '.join(map(str, dims))} ] }}"


def _quoted(text: str) -> str:
    """A string of the text format: ASCII, all other bytes by their numbers."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(text))
    return f'"{"".join(plain)}"'
