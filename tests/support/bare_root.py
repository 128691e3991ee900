"""A root folder in which Python runs without a compiler, a shell or OpenSSL.

The folder contains the Python that runs this test, the project's wheel, and the packages that the wheel's extras
`[cpu,images]` require.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import numpy as np
import onnxruntime
import PIL
import pytest
from sdk_build import built

_PACKAGES = "packages"
_WITHOUT = ("_ssl", "_hashlib")  # extension modules that need OpenSSL
_INTO_NAMESPACE = ["unshare", "--map-root-user", "--mount"]


class BareRoot:
    """A root folder, built in `folder`, in which Python programs can run.

    Large folders are mounted in a namespace that exists only while a program runs. All other files are copied. If this
    machine doesn't allow such namespaces, the test is skipped.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        try:
            subprocess.run([*_INTO_NAMESPACE, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no mount namespace to hide this machine's compiler in: {error}")
        self.root = folder
        packages = self.root / _PACKAGES
        built(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", packages, wheel)
        self._stdlib = Path(sysconfig.get_path("stdlib"))
        self._mounts = {Path(name): Path(name) for name in ("/proc", "/sys", "/dev")}
        self._mounts[self._stdlib] = self._stdlib
        for module in (np, onnxruntime, click, PIL):
            source = Path(str(module.__file__)).parent
            for mounted in (source, source.with_name(f"{source.name.replace('PIL', 'pillow')}.libs")):
                if mounted.is_dir():
                    self._mounts[mounted] = Path("/", _PACKAGES, mounted.name)
        for target in self._mounts.values():
            self._inside(target).mkdir(parents=True, exist_ok=True)
        self._copy_python()

    def run(self, program: str, *arguments: str) -> str:
        """Run Python code in the root folder and return its output.

        The code gets none of this process's environment variables.
        """
        lines = [f"mount --rbind '{source}' '{self._inside(target)}'" for source, target in self._mounts.items()]
        home = self._stdlib.parents[1]
        variables = f"PYTHONHOME={home} PYTHONPATH=/{_PACKAGES} HOME=/"
        lines.append(f"exec env -i {variables} {shutil.which('chroot')} '{self.root}' /python -S -c \"$@\"")
        return built(*_INTO_NAMESPACE, "sh", "-e", "-c", "\n".join(lines), "sh", program, *arguments)

    def _inside(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def _copy_python(self) -> None:
        program = Path(sys.executable).resolve()
        shutil.copy(program, self.root / "python")
        extensions = (self._stdlib / "lib-dynload").glob("*.so")
        packages = [source for source in self._mounts if source.name in ("numpy", "onnxruntime", "PIL")]
        need = [program, *(path for path in extensions if not path.name.startswith(_WITHOUT))]
        need += [path for package in packages for path in package.rglob("*.so*")]
        for library in _libraries(need):
            if any(library.is_relative_to(mounted) for mounted in (self._stdlib, *packages)):
                continue
            target = self._inside(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)


def _libraries(files: list[Path]) -> set[Path]:
    """Return the shared libraries that the dynamic loader finds for the given programs and libraries."""
    printed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", printed, re.MULTILINE)}
