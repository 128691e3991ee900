"""Builds the source archive, and from it a wheel for each architecture that runs wherever glibc 2.28 or newer is, one for
macOS on Apple silicon, and one without native libraries for every other machine.

    python tools/build_wheels.py dist

Needs Linux, what tools/requirements.txt lists, and the headers of ONNX Runtime, Highway and nlohmann/json. zig is the
compiler. auditwheel has the last word on wheels for Linux: one that asks for more than it says is not kept, and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "wheel"
ARCHITECTURES = ("x86_64", "aarch64")
"""Of Linux."""
MACOS = "macos"
ANY = "any"
TARGETS = (*ARCHITECTURES, MACOS, ANY)
COMPILED_IN = {"libhwy-dev": "Apache-2.0", "nlohmann-json3-dev": "MIT", "libonnxruntime-dev": "MIT"}
"""Debian packages whose headers become part of the libraries, and the SPDX expressions of their licences."""
GLIBC = (2, 28)
MACOS_PLATFORM = "macosx_13_0_arm64"


class BuildError(Exception):
    """One sentence that says what is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Builds into a folder and prints a line for each file; returns 1 with one sentence on stderr where that fails."""
    parser = argparse.ArgumentParser(description="Builds wheels for Linux with glibc 2.28 or newer, macOS, and any other.")
    parser.add_argument("out", type=Path, help="folder for the source archive and the wheels")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=TARGETS, help="default: all")
    arguments = parser.parse_args(argv)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        sdist = build_sdist(arguments.out.resolve())
        print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB", flush=True)
        for arch in arguments.arch:
            wheel = build_wheel(sdist, arch)
            said = f"; auditwheel: {audited(wheel, arch)}" if arch in ARCHITECTURES else ""
            wheel = Path(shutil.move(wheel, arguments.out.resolve() / wheel.name))
            print(described(wheel) + said, flush=True)
    except BuildError as error:
        print(f"build_wheels: {error}", file=sys.stderr)
        return 1
    return 0


def build_sdist(out: Path) -> Path:
    """Writes the source archive of this tree and returns its path."""
    build = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(out)!r}))"
    return out / run([sys.executable, "-c", build], "scikit-build-core can't make the source archive").splitlines()[-1]


def build_wheel(sdist: Path, arch: str) -> Path:
    """Builds the wheel of one architecture from a source archive and returns its path, in a folder of its own."""
    (source,) = unpacked(sdist).iterdir()
    options = ["wheel.cmake=false"] if arch == ANY else native_options(source, arch)
    if arch != ANY:
        (source / "LICENSE.compiled-in").write_text(compiled_in_licences(), encoding="utf-8")
    shutil.rmtree(WORK / arch, ignore_errors=True)
    out = WORK / f"wheel-{arch}"  # that of the user may hold wheels of other versions
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    run([*command, *(f"-C{option}" for option in options)], f"the wheel for {arch} can't be built")
    (wheel,) = out.iterdir()
    return wheel


def native_options(source: Path, arch: str) -> list[str]:
    """scikit-build-core's settings for a wheel with native libraries."""
    # Nothing is left out but the GPU's.
    defines = {"VMOE_ZIG": str(zig()), "VMOE_REQUIRE_ALL": "ON", "VMOE_GPU": "OFF"}
    if arch in ARCHITECTURES:
        defines["VMOE_ARCH"] = arch
    toolchain = "manylinux.cmake" if arch in ARCHITECTURES else "macos.cmake"
    return [
        f"build-dir={WORK / arch}",
        f"wheel.tags=py3-none-{platform(arch)}",
        "install.strip=false",  # the linker does, for every architecture
        f"cmake.toolchain-file={source / 'plugins' / 'cmake' / toolchain}",
        *(f"cmake.define.{name}={value}" for name, value in defines.items()),
    ]


def compiled_in_licences() -> str:
    """The licences of what stands in the libraries besides our own code: headers of Debian packages, and zig's libraries."""
    files = [Path("/usr/share/doc", package, "copyright") for package in COMPILED_IN]
    files += [zig().parent / "LICENSE", zig().parent / "lib" / "libcxx" / "LICENSE.TXT"]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BuildError(f"the licences of what is compiled in are not there: {', '.join(missing)}")
    return "\n".join(f"==== {path.parent.name}\n\n{path.read_text(encoding='utf-8')}" for path in files)


def unpacked(sdist: Path) -> Path:
    """The folder of a source archive's files. Those that didn't change stay the files they are: zig knows them by that."""
    target, fresh = WORK / "source", WORK / "source-fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(fresh, filter="data")
    for path in fresh.rglob("*"):
        known = target / path.relative_to(fresh)
        if path.is_file() and known.is_file() and filecmp.cmp(path, known, shallow=False):
            known.replace(path)
    shutil.rmtree(target, ignore_errors=True)
    return fresh.rename(target)


def zig() -> Path:
    """The zig program of the package ziglang."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise BuildError("ziglang is not installed; run pip install -r tools/requirements.txt")
    return Path(found.origin).with_name("zig")


def platform(arch: str) -> str:
    """The platform that a wheel says it is for."""
    return MACOS_PLATFORM if arch == MACOS else f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{arch}"


def audited(wheel: Path, arch: str) -> str:
    """What auditwheel says that a wheel runs on.

    Raises:
        BuildError: that is less than its name says.
    """
    report = run([sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)], "auditwheel can't read the wheel")
    tag = str(json.loads(report)["overall_tag"])
    found = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{arch}", tag)
    if not found or (int(found[1]), int(found[2])) > GLIBC:
        raise BuildError(f"auditwheel says {tag} of {wheel.name}, which was to be {platform(arch)}")
    return tag


def described(wheel: Path) -> str:
    """Name and size of a wheel, and of the libraries in it."""
    with zipfile.ZipFile(wheel) as archive:
        libraries = [entry for entry in archive.infolist() if entry.filename.endswith((".so", ".dylib"))]
    sizes = ", ".join(f"{Path(entry.filename).name} {entry.file_size / 1e6:.2f} MB" for entry in libraries)
    return f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB with {sizes or 'no library'}"


def run(command: list[str], what_failed: str) -> str:
    """Runs a command in this tree and returns what it prints."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print((done.stdout + done.stderr)[-4000:], file=sys.stderr)
        raise BuildError(what_failed)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
