"""Writes a model repository, completely or not at all. It replaces only repositories that this command wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_serve.triton.model_config import Scheduling, model_config
from vmoe_tools.output import FolderKind

BUNDLE_FOLDER = "bundle.vmoe"
REPOSITORY = FolderKind("repository", "vmoe serve triton", "vmoe-serve.json", "vmoe-triton-repository")
_VERSION = "1"
_MODEL_PY = '''"""A vmoe bundle behind Triton's Python backend; vmoe serve triton wrote this file."""

from vmoe_serve.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Model:
    """One model of a repository.

    Attributes:
        name: name of the model and its folder.
        config: text of its `config.pbtxt`.
        files: the files in the folder of the model's version, by path. A value is the file's content, or the path of a
            bundle file to link to.
        serves: readable description of what the model serves.
    """

    name: str
    config: str
    files: Mapping[str, bytes | Path]
    serves: str


def python_model(bundle: Bundle, name: str, scheduling: Scheduling, profile: Profile | None) -> Model:
    """Return a model that runs the whole bundle on the engine.

    Args:
        bundle: an open bundle.
        name: name of the model.
        scheduling: how Triton runs the model.
        profile: the profile for requests that don't specify a profile; None if the bundle has no settings.
    """
    parameters = {"backend": "auto"} | ({} if profile is None else {"profile": profile.name})
    linked = {f"{BUNDLE_FOLDER}/{file}": bundle.path.absolute() / file for file in (MANIFEST_NAME, *bundle.manifest.files)}
    return Model(
        name,
        model_config(name, "python", bundle.manifest, scheduling, parameters=parameters),
        {"model.py": _MODEL_PY.encode(), **linked},
        "on the engine" if profile is None else f"on the engine at the setting of each request, else {profile.name}",
    )


def onnxruntime_model(bundle: Bundle, name: str, scheduling: Scheduling, profile: Profile | None, library: Path) -> Model:
    """Return a model for Triton's ONNX Runtime backend. The model is fixed to one profile.

    Args:
        bundle: an open bundle.
        name: name of the model.
        scheduling: how Triton runs the model.
        profile: the profile; None if the bundle has no settings.
        library: absolute path of the op library.
    """
    setting = {} if profile is None else profile.inputs
    return Model(
        name,
        model_config(name, "onnxruntime", bundle.manifest, scheduling, library=library),
        {
            "model.onnx": fixed_graph(bundle.graph(CANONICAL_GRAPH).data, bundle.manifest.answers, setting),
            WEIGHTS_NAME: bundle.path.absolute() / WEIGHTS_NAME,
        },
        "on ONNX Runtime" if profile is None else f"on ONNX Runtime at {profile.name}",
    )


def fixed_graph(model: bytes, outputs: Collection[str], setting: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]) -> bytes:
    """Turn the inputs that select a setting into constants of a graph, and remove the graph's routing outputs.

    Args:
        model: a bundle's canonical graph, a serialized ONNX model.
        outputs: names of the outputs to keep. All other outputs are removed.
        setting: values of the graph inputs that become constant, by name; empty for a model without settings.

    Returns:
        A serialized ONNX model that reads the same external data.
    """
    import onnx

    fixed = onnx.load_model_from_string(model)
    parts: tuple[tuple[Any, Callable[[Any], bool]], ...] = (
        (fixed.graph.output, lambda each: each.name in outputs),
        (fixed.graph.input, lambda each: each.name not in setting),
        (fixed.graph.initializer, lambda each: each.name not in setting),
    )
    for values, is_kept in parts:
        kept = [each for each in values if is_kept(each)]
        del values[:]
        values.extend(kept)
    fixed.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in setting.items())
    content: bytes = fixed.SerializeToString()
    return content


def write_repository(target: Path, models: Sequence[Model], *, force: bool) -> int:
    """Write a repository, completely or not at all.

    Args:
        target: folder of the repository.
        models: the models that the repository will contain.
        force: whether to replace a repository that this command wrote.

    Returns:
        Size in bytes of the bundle files that were copied because they can't be linked.

    Raises:
        VmoeError: the target exists and must not be replaced, or it can't be written.
        FileNotFoundError: a file of the bundle no longer exists.
    """
    contents: dict[str, bytes | Path] = {}
    for model in models:
        contents[f"{model.name}/config.pbtxt"] = model.config.encode()
        contents |= {f"{model.name}/{_VERSION}/{path}": content for path, content in model.files.items()}
    return REPOSITORY.write(target, contents, force=force)
