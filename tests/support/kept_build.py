"""Files that tests compile with one command. They are kept in build/, and rebuilt if the command or its inputs change."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from sdk_build import ROOT, built, locked

_HEADER_FOLDERS = ("plugins", "tests/cpp", "tests/gpu_emulator")


def kept(name: str, *command: str | Path) -> Path:
    """Return the file that a compiler command makes, and run the command only if needed.

    The function adds `-o` and the file to the command. The file is rebuilt if the command, its input files, or any header in
    the product or in tests/cpp has changed. If ninja is not installed, the test is skipped.

    Args:
        name: name of the file, and of its folder in build/compiled. The compiler's output is in `<name>.txt` in that folder.
        command: the compiler with flags, sources and libraries.
    """
    if shutil.which("ninja") is None:
        pytest.skip("there is no ninja to compile with")
    folder = ROOT / "build" / "compiled" / name
    given = [Path(word) for word in command[1:] if Path(word).is_file()]
    headers = [path for place in _HEADER_FOLDERS for path in (ROOT / place).rglob("*.h*")]
    line = shlex.join(map(str, (*command, "-o", name)))
    rule = f"({line}) >{name}.txt 2>&1 || {{ cat {name}.txt; false; }}".replace("$", "$$")
    inputs = " ".join(str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:") for path in (*given, *headers))
    with locked(folder):
        (folder / "build.ninja").write_text(f"rule compile\n  command = {rule}\nbuild {name}: compile {inputs}\n")
        built("ninja", "-C", folder, "--quiet")
    return folder / name
