"""What a model repository holds, and how it is written: whole, and over nothing but an old one of this command."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime import VmoeError
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, MANIFEST_NAME, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_serve.triton.model_config import model_config

BUNDLE_FOLDER = "bundle.vmoe"
MARKER_NAME = "vmoe-serve.json"  # names the files of a repository
_FORMAT = "vmoe-triton-repository"
_VERSION = "1"
_MODEL_PY = '''"""A vmoe bundle behind Triton's Python backend; vmoe serve triton wrote this file."""

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


def python_model(bundle: Bundle, name: str, batch_size: int, instances: int, profile: Profile | None) -> Model:
    """The model on the engine, with the whole bundle.

    Args:
        bundle: an open bundle.
        name: of the model.
        batch_size: the most images of an execution.
        instances: of the model.
        profile: what requests get that set nothing; None where the bundle has nothing to set.
    """
    parameters = {"backend": "auto"} | ({} if profile is None else {"profile": profile.name})
    linked = {f"{BUNDLE_FOLDER}/{file}": bundle.path.absolute() / file for file in (MANIFEST_NAME, *bundle.manifest.files)}
    return Model(
        name,
        model_config(name, "python", bundle.manifest, batch_size, instances, parameters=parameters),
        {"model.py": _MODEL_PY.encode(), **linked},
        "on the engine" if profile is None else f"on the engine at the setting of each request, else {profile.name}",
    )


def onnxruntime_model(
    bundle: Bundle, name: str, batch_size: int, instances: int, profile: Profile | None, library: Path
) -> Model:
    """A plain model for ONNX Runtime, fixed to one profile.

    Args:
        bundle: an open bundle.
        name: of the model.
        batch_size: the most images of an execution.
        instances: of the model.
        profile: the profile; None where the bundle has nothing to set.
        library: the op library; an absolute path.
    """
    setting = {} if profile is None else profile.inputs
    return Model(
        name,
        model_config(name, "onnxruntime", bundle.manifest, batch_size, instances, library=library),
        {
            "model.onnx": fixed_graph(bundle.graph(CANONICAL_GRAPH).data, bundle.manifest.output, setting),
            WEIGHTS_NAME: bundle.path.absolute() / WEIGHTS_NAME,
        },
        "on ONNX Runtime" if profile is None else f"on ONNX Runtime at {profile.name}",
    )


def fixed_graph(model: bytes, output: str, setting: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]) -> bytes:
    """Writes the values of a setting into a graph.

    Args:
        model: a bundle's canonical graph, a serialized ONNX model.
        output: the output to keep; those that say where tokens went are dropped.
        setting: by name of the graph input that becomes constant; empty for a model that has none.

    Returns:
        A serialized ONNX model that reads the same external data.
    """
    import onnx

    fixed = onnx.load_model_from_string(model)
    parts = (
        (fixed.graph.output, lambda each: each.name == output),
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


def check_target(target: Path, *, force: bool) -> None:
    """Refuses a target that can't become a repository.

    Args:
        target: where the repository will be.
        force: it may replace one that this command wrote.

    Raises:
        VmoeError: there is something already, or no folder to write in.
    """
    if target.name in {"", ".."}:
        raise VmoeError(f"'{target}' is not a name for a repository")
    if not target.absolute().parent.is_dir():
        raise VmoeError(f"{target.absolute().parent} is not a folder; make it first")
    if not os.path.lexists(target):
        return
    if not force:
        raise VmoeError(f"{target} exists; --force replaces it if vmoe serve triton wrote it")
    try:
        marker = json.loads((target / MARKER_NAME).read_bytes())
        ours = {MARKER_NAME, *marker["files"]} if marker["format"] == _FORMAT and not target.is_symlink() else None
    except (OSError, ValueError, TypeError, KeyError):
        ours = None
    if ours is None:
        raise VmoeError(f"{target} exists and was not written by vmoe serve triton, so it is not replaced")
    for path in sorted(target.rglob("*")):
        # Python keeps what it compiled beside a model that Triton has run.
        is_ours = path.is_dir() or path.parent.name == "__pycache__" or str(path.relative_to(target)) in ours
        if not is_ours or path.is_symlink():
            raise VmoeError(f"{target} holds '{path.relative_to(target)}', which this command didn't write, so it stays")


def write_repository(target: Path, models: Sequence[Model], *, force: bool) -> int:
    """Writes a repository, whole or not at all.

    Args:
        target: the folder that it becomes.
        models: what it holds.
        force: it may replace one that this command wrote.

    Returns:
        How many bytes of the bundle were copied, as they can't be linked to.

    Raises:
        VmoeError: the target holds something else.
        OSError: it can't be written.
    """
    contents: dict[str, bytes | Path] = {}
    for model in models:
        contents[f"{model.name}/config.pbtxt"] = model.config.encode()
        contents |= {f"{model.name}/{_VERSION}/{path}": content for path, content in model.files.items()}
    contents[MARKER_NAME] = (json.dumps({"format": _FORMAT, "files": sorted(contents)}, indent=1) + "\n").encode()
    written, aside = (target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
    try:
        copied = sum(_put(written / path, content) for path, content in contents.items())
        check_target(target, force=force)
        if target.exists():
            target.rename(aside)
        written.rename(target)
    finally:
        if aside.exists() and not target.exists():
            aside.rename(target)
        for folder in (written, aside):
            shutil.rmtree(folder, ignore_errors=True)
    return copied


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
