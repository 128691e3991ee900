"""Locate the newest finished step in the folders that Orbax writes. A step is at `WORKDIR/ckpt/STEP/state/`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vmoe_export.errors import CheckpointError

_STEP = re.compile(r"(?:.*_)?(\d{1,18})")
_MARK = "commit_success.txt"  # marks a finished step in object stores, where folders can't be renamed
_UNFINISHED = ".orbax-checkpoint-tmp"


def find_item(path: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Resolve a path to its Orbax item folder.

    Args:
        path: the folder of an item, of a step, or of several steps. If there are several steps, the newest finished one is
            used.

    Returns:
        The item folder, and notes for the user on how it was chosen. Returns None if the path holds no Orbax checkpoint.

    Raises:
        CheckpointError: the checkpoint was not finished, or a step holds several items whose names do not show which one to
            use.
        OSError: a folder can't be read.
    """
    if _is_item(path):
        step = path.parent if (path.parent / "_CHECKPOINT_METADATA").is_file() else path
        if not (_is_finished(path) and _is_finished(step)):
            raise CheckpointError(f"{path} is unfinished: its checkpoint was still being saved")
        return path, ()
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    if items := [child for child in folders if _is_item(child)]:
        named = [item for item in items if item.name in ("state", "default")] or items
        if len(named) > 1:
            raise CheckpointError(f"{path} holds several items ({', '.join(item.name for item in named)}); pass one of them")
        return find_item(named[0])
    steps = [child for child in folders if _is_step(child)]
    if not steps:
        return None
    is_marked = any((step / _MARK).is_file() for step in steps)
    finished = [step for step in steps if _is_finished(step) and (not is_marked or (step / _MARK).is_file())]
    left_out = ", ".join(step.name for step in steps if step not in finished)
    if not finished:
        raise CheckpointError(f"{path} holds no finished step (unfinished: {left_out})")
    newest = max(finished, key=_number)
    found = find_item(newest)
    assert found is not None
    return found[0], (f"skipped unfinished steps: {left_out}",) if left_out else ()


def _is_item(folder: Path) -> bool:
    files = [name for name in ("_METADATA", "manifest.ocdbt", "checkpoint") if (folder / name).is_file()]
    return bool(files) and (files != ["checkpoint"] or not any(folder.glob("*.index")))  # TensorFlow also uses 'checkpoint'


def _is_step(folder: Path) -> bool:
    return _number(folder) >= 0 and any(
        _is_item(child) or _UNFINISHED in child.name for child in (folder, *folder.iterdir())
    )


def _number(step: Path) -> int:
    match = _STEP.fullmatch(step.name.partition(_UNFINISHED)[0])
    return int(match[1]) if match else -1


def _is_finished(folder: Path) -> bool:
    if _UNFINISHED in folder.name:
        return False
    try:
        metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_bytes())
        return metadata["commit_timestamp_nsecs"] is not None
    except OSError:
        return True  # old Orbax versions write no _CHECKPOINT_METADATA, so assume that the step is finished
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
