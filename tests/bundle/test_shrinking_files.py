"""Check that a checkpoint file that shrinks while it is read gives one error message.

The process must never end with SIGBUS.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from damaged_files import assert_one_sentence, refusal, written

from vmoe_export import CheckpointError, open_checkpoint
from vmoe_export.checkpoint import safetensors_file as reader

# This program runs in a separate process, because SIGBUS would end the process that runs the tests.
PROGRAM = """
import os, sys
from vmoe_export import CheckpointError, open_checkpoint
path, victim = sys.argv[1:]
with open_checkpoint(path) as checkpoint:
    first, *others = checkpoint
    checkpoint[first]
    os.truncate(victim, 4096)
    for name in others:
        try:
            checkpoint[name]
        except CheckpointError as error:
            print(error)
"""
TENSORS = {name: np.ones((500, 1000), np.float32) for name in ("cls", "embedding/kernel", "head/bias")}


def official(folder: Path) -> tuple[Path, Path]:
    return written(folder, TENSORS), folder / "ckpt.data-00000-of-00001"


def torch_file(folder: Path) -> tuple[Path, Path]:
    torch.save({name: torch.from_numpy(array) for name, array in TENSORS.items()}, folder / "ckpt.pt")
    return folder / "ckpt.pt", folder / "ckpt.pt"


def safetensors_file(folder: Path) -> tuple[Path, Path]:
    safetensors.numpy.save_file(TENSORS, folder / "ckpt.safetensors")
    return folder / "ckpt.safetensors", folder / "ckpt.safetensors"


@pytest.mark.parametrize(("old", "new"), [('"shape"', '"shapE"'), ("[500,1000]", "[500,1001]"), ('{"cls"', '["cls"')])
def test_a_header_that_is_written_to_after_the_look_at_it(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = safetensors_file(tmp_path)
    content = path.read_bytes()
    assert old.encode() in content

    @contextmanager
    def safe_open(*_: object, **__: object) -> Iterator[None]:
        yield
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))

    monkeypatch.setattr(reader, "safe_open", safe_open)
    with refusal(CheckpointError, "ckpt.safetensors was changed while it was read"):
        open_checkpoint(path)


@pytest.mark.sample(1)
@pytest.mark.parametrize("write", [official, torch_file, safetensors_file], ids=lambda write: write.__name__)
def test_a_file_that_is_cut_while_it_is_read(write: object, tmp_path: Path) -> None:
    assert callable(write)
    path, victim = write(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM, path, victim], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    sentences = done.stdout.splitlines()
    assert len(sentences) == 2
    for sentence in sentences:
        assert_one_sentence(sentence, "ckpt", "cut short")
