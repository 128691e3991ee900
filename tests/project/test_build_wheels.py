"""What `tools/build_wheels.py` does around the build itself, with compiler and auditwheel played by the test."""

from __future__ import annotations

import io
import json
import runpy
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def builder(work: Path, audit: Callable[[str], str]) -> dict[str, Any]:
    """The builder's names, with programs that are not run; `audit` takes a platform and gives what auditwheel says."""
    names = runpy.run_path(str(ROOT / "tools" / "build_wheels.py"))["main"].__globals__

    def run(command: list[str], what_failed: str) -> str:
        if "auditwheel" in command:
            return json.dumps({"overall_tag": audit(Path(command[-1]).stem.partition("none-")[2])})
        if "wheel" in command:
            folder = Path(command[command.index("-w") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            tag = next(word for word in command if word.startswith("-Cwheel.tags=")).partition("=")[2]
            with zipfile.ZipFile(folder / f"vmoe_export-2.0.0-{tag}.whl", "w") as wheel:
                wheel.writestr("lib.so", "")
            return ""
        sdist = work / "dist" / "vmoe_export-2.0.0.tar.gz"
        with tarfile.open(sdist, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("vmoe_export-2.0.0/pyproject.toml"), io.BytesIO())
        return f"{sdist.name}\n"

    names.update(WORK=work / "work", run=run, zig=lambda: "zig")
    return names


def test_wheels_of_other_versions_may_lie_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    old = {f"vmoe_export-1.0.0-py3-none-manylinux_2_28_{arch}.whl" for arch in ("x86_64", "aarch64")}
    for name in old:
        (out / name).touch()
    for _ in range(2):  # the second time there are some of this version, too
        assert builder(tmp_path, audit=str)["main"]([str(out)]) == 0
    new = {name.replace("1.0.0", "2.0.0") for name in old}
    assert {path.name for path in out.iterdir()} == {*old, *new, "vmoe_export-2.0.0.tar.gz"}
    said = capsys.readouterr().out
    assert all(name in said for name in new)


def test_a_wheel_that_asks_for_more_than_it_says_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "dist"
    assert builder(tmp_path, audit=lambda platform: platform.replace("28", "34"))["main"]([str(out)]) == 1
    assert "auditwheel says manylinux_2_34_x86_64" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["vmoe_export-2.0.0.tar.gz"]
