"""What a model repository holds, and how its files are put there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_serve.triton.fixed_graph import fixed_graph
from vmoe_serve.triton.model_config import Scheduling, onnxruntime_config, python_config
from vmoe_serve.triton.target import MARKER_NAME, marker, written_beside

BUNDLE_FOLDER = "bundle.vmoe"

_VERSION = "1"
_MODEL_PY = '''"""A vmoe bundle behind Triton's Python backend; vmoe-serve wrote this file."""

from vmoe_serve.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Model:
    """One model of a repository.

    Attributes:
        name: of the model and its folder.
        config: text of its `config.pbtxt`.
        files: by path inside the folder of its version: the content, or the file to link to.
        serves: what it does, in words.
    """

    name: str
    config: str
    files: Mapping[str, bytes | Path]
    serves: str


def python_model(bundle: Bundle, name: str, scheduling: Scheduling, profile: Profile | None) -> Model:
    """The model on the engine, with the whole bundle.

    Args:
        bundle: an open bundle.
        name: of the model.
        scheduling: how Triton runs it.
        profile: what requests get that set nothing; None where the bundle has nothing to set.
    """
    parameters = {"backend": "auto"} | ({} if profile is None else {"profile": profile.name})
    linked = {f"{BUNDLE_FOLDER}/{file}": bundle.path.absolute() / file for file in (MANIFEST_NAME, *bundle.manifest.files)}
    return Model(
        name,
        python_config(name, bundle.manifest, scheduling, parameters),
        {"model.py": _MODEL_PY.encode(), **linked},
        "on the engine" if profile is None else f"on the engine at the setting of each request, else {profile.name}",
    )


def onnxruntime_model(bundle: Bundle, name: str, scheduling: Scheduling, profile: Profile | None, library: Path) -> Model:
    """A plain model for ONNX Runtime, fixed to one profile.

    Args:
        bundle: an open bundle.
        name: of the model.
        scheduling: how Triton runs it.
        profile: the profile; None where the bundle has nothing to set.
        library: the op library; an absolute path.
    """
    setting = {} if profile is None else profile.inputs()
    graph = fixed_graph(bundle.graph(CANONICAL_GRAPH).data, bundle.manifest.output, setting)
    return Model(
        name,
        onnxruntime_config(name, bundle.manifest, scheduling, library),
        {"model.onnx": graph, WEIGHTS_NAME: bundle.path.absolute() / WEIGHTS_NAME},
        "on ONNX Runtime" if profile is None else f"on ONNX Runtime at {profile.name}",
    )


def write_repository(target: Path, models: Sequence[Model], *, force: bool) -> int:
    """Writes a repository, whole or not at all.

    Args:
        target: the folder that it becomes.
        models: what it holds.
        force: it may replace one that this command wrote.

    Returns:
        How many bytes of the bundle were copied, as they can't be linked to.

    Raises:
        CommandError: the target holds something else.
        OSError: it can't be written.
    """
    with written_beside(target, force=force) as folder:
        contents: dict[str, bytes | Path] = {}
        for model in models:
            contents[f"{model.name}/config.pbtxt"] = model.config.encode()
            contents |= {f"{model.name}/{_VERSION}/{path}": content for path, content in model.files.items()}
        contents[MARKER_NAME] = marker(list(contents))
        return sum(_put(folder / path, content) for path, content in contents.items())


def _put(path: Path, content: bytes | Path) -> int:
    """Writes a file or links to it; returns the bytes that were copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return 0
    try:
        os.link(content, path)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(content, path)
        return path.stat().st_size
    return 0
