"""What callers of `export_bundle` and users of `vmoe-export` may give by mistake, and the sentence for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damaged_files import DENSE, assert_one_sentence

from vmoe_export import ExportError, ExportOptions, export_bundle
from vmoe_export.errors import OptionError

COMMAND = [sys.executable, "-c", "from vmoe_export.cli import main; main()"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bpr": np.array([1, 0])}, "bpr is array([1, 0])"),
        ({"tensorrt": torch.ones(2)}, "tensorrt is tensor([1., 1.])"),
        ({"input": np.array(["float32", "uint8"])}, "input is array(['float32', 'uint8']"),
        ({"precision": [[1], [1, 2]]}, "precision is [[1], [1, 2]], not one of fp32"),
        ({"capacity": "3"}, "capacity is '3', but must be a sequence of ratios"),
        ({"k": "12"}, "k is '12', but must be a sequence of numbers"),
        ({"class_names": "abcdefghij"}, "class_names is 'abcdefghij', but must be a sequence of names"),
    ],
)
def test_options_of_the_wrong_kind(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as refused:
        ExportOptions(**options)
    assert_one_sentence(str(refused.value), words)


def test_flags_of_numpy_are_flags() -> None:
    assert ExportOptions(bpr=np.bool_(True), tensorrt=False).bpr  # type: ignore[arg-type]


def test_a_zero_byte_in_a_path(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="zero byte"):
        export_bundle(DENSE, tmp_path / "a\0b.vmoe")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "code"), [("--class-names", 2), ("--config", 1)])
def test_a_file_without_an_end(option: str, code: int) -> None:
    command = [*COMMAND, DENSE, option, "/dev/zero", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code
    assert_one_sentence(done.stderr.removesuffix("\n"), "/dev/zero", "more than 16 MiB")


def test_class_names_may_come_from_a_pipe(tmp_path: Path, mnist_checkpoint: Path) -> None:
    line = f'seq 10 | "$0" "$@" {mnist_checkpoint} --class-names /dev/stdin --dry-run'
    done = subprocess.run(["sh", "-c", line, *COMMAND], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_is_there_and_broken(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('libbroken.so: cannot open shared object file')")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*COMMAND, DENSE], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert_one_sentence(done.stderr.removesuffix("\n"), "can't be loaded (libbroken.so: cannot open shared object file)")
