"""`vmoe-export` with closed standard files, and with paths that are no text: one sentence, or it works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from damaged_files import DENSE, assert_one_sentence, copied_checkpoint

from vmoe_export import export_bundle
from vmoe_export.cli import main

COMMAND = [sys.executable, "-c", "from vmoe_export.cli import main; main()"]
ODD = os.fsdecode(b"odd\xff")


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell line in which $0 ... stand for the command."""
    return subprocess.run(["sh", "-c", line, *COMMAND], cwd=folder, capture_output=True, text=True, check=False)


def odd_checkpoint(folder: Path) -> None:
    copied_checkpoint(folder, DENSE)
    for file in folder.glob("ckpt.*"):
        file.rename(file.with_name(file.name.replace("ckpt", ODD)))


def test_a_closed_standard_output_is_one_sentence(tmp_path: Path) -> None:
    done = shell(tmp_path, f'"$0" "$@" {DENSE} -o x.vmoe >&-')
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), "vmoe-export: standard output is closed")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_standard_error_changes_nothing(tmp_path: Path) -> None:
    done = shell(tmp_path, f'"$0" "$@" {DENSE} --dry-run 2>&-')
    assert done.returncode == 0
    assert "Dry run" in done.stdout
    assert shell(tmp_path, '"$0" "$@" absent 2>&-').returncode == 1


def test_a_target_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, DENSE, "-o", f"{ODD}.vmoe"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert_one_sentence(done.stderr.removesuffix("\n"), "odd\\udcff.vmoe", "UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_whose_path_is_no_text_is_exported(tmp_path: Path) -> None:
    odd_checkpoint(tmp_path)
    done = subprocess.run([*COMMAND, ODD, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "odd\\udcff.vmoe would take" in done.stdout
    export_bundle(tmp_path / ODD, tmp_path / "x.vmoe", validate=False)
    manifest = json.loads((tmp_path / "x.vmoe" / "manifest.json").read_bytes())
    assert manifest["source"]["name"] == "odd\N{REPLACEMENT CHARACTER}"


def test_tools_take_a_bundle_whose_path_is_no_text(tmp_path: Path) -> None:
    export_bundle(DENSE, tmp_path / "x.vmoe", validate=False)
    shutil.move(tmp_path / "x.vmoe", tmp_path / f"{ODD}.vmoe")
    for tool, code, words in (
        (["vmoe_tools.bench", f"{ODD}.vmoe", "--duration", "0.01"], 0, ""),
        (["vmoe_tools.build", f"{ODD}.vmoe"], 1, "odd\\udcff.vmoe has no graphs"),
        (["vmoe_tools.inspect", f"{ODD}.vmoe"], 0, ""),
        (["vmoe_tools.run", f"{ODD}.vmoe", f"{ODD}.png"], 1, "odd\\udcff.png is not a readable image"),
    ):
        done = subprocess.run([sys.executable, "-m", *tool], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_another_thread_may_run_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[object] = []

    def run() -> None:
        try:
            main(["absent"])
        except SystemExit as stopped:
            codes.append(stopped.code)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [1]
    assert_one_sentence(capsys.readouterr().err.removesuffix("\n"), "absent is not a checkpoint")
