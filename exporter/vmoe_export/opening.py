"""Open checkpoints. The files determine the reader, and the names of the tensors determine the library."""

from __future__ import annotations

import os
from pathlib import Path

from vmoe_export.checkpoint import MODEL_FILES, ONE_FILE_SUFFIXES, SHARDS, TORCH_SUFFIXES, BundleCheckpoint, Checkpoint
from vmoe_export.checkpoint.bundle import is_bundle
from vmoe_export.checkpoint.official import OfficialCheckpoint
from vmoe_export.checkpoint.orbax_steps import find_item
from vmoe_export.checkpoint.safetensors_file import SafetensorsCheckpoint
from vmoe_export.checkpoint.sharded_files import ShardedCheckpoint
from vmoe_export.errors import CheckpointError
from vmoe_export.families.family_list import family_of
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint for reading, one tensor at a time.

    Args:
        path: one of

            - `PREFIX` or `PREFIX.index` of the official format of 2022,
            - an Orbax folder: a folder of steps (the newest finished one is read), a step, or its `state`,
            - a `.safetensors` file, or a torch `.pt`, `.pth` or `.bin` file,
            - the index of a model in several files (`model.safetensors.index.json`, `pytorch_model.bin.index.json`),
            - a Hugging Face model folder,
            - another folder that contains exactly one of these,
            - a float32 bundle.

    Returns:
        A mapping from official parameter names (such as `Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel`) to arrays. If the
        model is from another library, `family_title` names its family, and the names are that library's.

    Raises:
        CheckpointError: the path is not a checkpoint, the checkpoint is damaged, or its library is not installed.
        BundleError: the bundle is damaged.

    Examples:
        >>> with open_checkpoint("samples/mnist/vmoe_mnist") as checkpoint:
        ...     checkpoint["head/kernel"].shape
        (64, 10)
    """
    path = Path(path)
    try:
        checkpoint = _reader(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror}") from None
    if family := family_of(checkpoint.info):
        checkpoint.family_title = family.title
        return checkpoint
    try:
        checkpoint.use_official_names()
    except CheckpointError:
        checkpoint.close()
        raise
    return checkpoint


def _reader(path: Path) -> Checkpoint:
    if path.is_dir():
        if is_bundle(path):
            return BundleCheckpoint(path)
        if (found := find_item(path)) is not None:
            return _orbax(path, *found)
        path = _only_checkpoint_in(path)
    if path.name == WEIGHTS_NAME and is_bundle(path.parent):
        raise CheckpointError(f"{path} contains the weights of a bundle; pass the bundle, {path.parent}")
    if path.name.endswith(SHARDS) and path.is_file():
        return ShardedCheckpoint(path, SafetensorsCheckpoint if path.name.endswith(SHARDS[0]) else _torch)
    if path.suffix == ".safetensors" and path.is_file():
        return SafetensorsCheckpoint(path)
    if path.suffix in {*TORCH_SUFFIXES, ".ckpt"} and path.is_file():  # Lightning writes .ckpt
        return _torch(path)
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if Path(f"{prefix}.index").is_file():
        return OfficialCheckpoint(prefix)
    if path.is_file():
        expected = "a bundle, an Orbax folder, PREFIX.index, .safetensors, .pt, .pth or .bin"
        raise CheckpointError(f"{path} is not a checkpoint: expected {expected}")
    may_be_remote = len(path.parts) == 2 and not path.parent.exists()
    hint = f"; hf://{path} is the model of that name on Hugging Face" if may_be_remote else ""
    raise CheckpointError(f"{path} is not a checkpoint: neither it nor {prefix}.index is there{hint}")


def _torch(path: Path) -> Checkpoint:
    try:
        from vmoe_export.checkpoint.torch_file import TorchCheckpoint
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{path} is a torch file, and torch is not installed; pip install 'vmoe-export[torch]'"
        ) from None
    return TorchCheckpoint(path)


def _orbax(path: Path, item: Path, notes: tuple[str, ...]) -> Checkpoint:
    try:
        from vmoe_export.checkpoint.orbax_folder import OrbaxCheckpoint
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{path} is an Orbax checkpoint, and tensorstore is not installed; pip install 'vmoe-export[orbax]'"
        ) from None
    return OrbaxCheckpoint(item, notes)


def _only_checkpoint_in(folder: Path) -> Path:
    if (usual := next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)) is not None:
        return usual
    found = sorted(p for p in folder.iterdir() if p.suffix in {".index", *ONE_FILE_SUFFIXES})
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or f"no {', '.join(MODEL_FILES)}, .index, .safetensors, .pt, .pth or .bin"
        raise CheckpointError(f"{folder} must hold exactly one checkpoint (found: {names})")
    return found[0]
