"""Build the source archive and, from that archive, the wheels:

- one for each Linux architecture, for glibc 2.28 or newer,
- one for macOS on Apple silicon,
- one without native libraries for all other machines.

    python tools/build_wheels.py dist

The build needs Linux, the packages in tools/requirements.txt, and the headers of ONNX Runtime, Highway and nlohmann/json.
The compiler is zig. auditwheel checks the wheels for Linux. If a wheel needs a newer system than its name says, the build
fails with exit code 1.
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
"""The Linux architectures."""
MACOS = "macos"
ANY = "any"
TARGETS = (*ARCHITECTURES, MACOS, ANY)
COMPILED_IN = {"libhwy-dev": "Apache-2.0", "nlohmann-json3-dev": "MIT", "libonnxruntime-dev": "MIT"}
"""Debian packages whose headers are compiled into the libraries, and the SPDX expressions of their licences."""
GLIBC = (2, 28)
MACOS_PLATFORM = "macosx_13_0_arm64"


class BuildError(Exception):
    """Error raised if a build step fails. The message says which step failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build into a folder, and print one line for each file. Return 0 if the build succeeds.

    If it fails, print an error on stderr and return 1.
    """
    parser = argparse.ArgumentParser(description="Build wheels for Linux with glibc 2.28 or newer, macOS, and all others.")
    parser.add_argument("out", type=Path, help="folder for the source archive and the wheels")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=TARGETS, help="default: all")
    arguments = parser.parse_args(argv)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        sdist = build_sdist(arguments.out.resolve())
        print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB", flush=True)
        for arch in arguments.arch:
            wheel = build_wheel(sdist, arch)
            audit = f"; auditwheel: {audited(wheel, arch)}" if arch in ARCHITECTURES else ""
            wheel = Path(shutil.move(wheel, arguments.out.resolve() / wheel.name))
            print(described(wheel) + audit, flush=True)
    except BuildError as error:
        print(f"build_wheels: {error}", file=sys.stderr)
        return 1
    return 0


def build_sdist(out: Path) -> Path:
    """Write the source archive of this tree, and return its path."""
    build = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(out)!r}))"
    return out / run([sys.executable, "-c", build], "scikit-build-core can't make the source archive").splitlines()[-1]


def build_wheel(sdist: Path, arch: str) -> Path:
    """Build the wheel for one architecture from a source archive, and return the wheel's path.

    The wheel is built into a separate folder.
    """
    (source,) = unpacked(sdist).iterdir()
    options = ["wheel.cmake=false"] if arch == ANY else native_options(source, arch)
    if arch != ANY:
        (source / "LICENSE.compiled-in").write_text(compiled_in_licences(), encoding="utf-8")
    shutil.rmtree(WORK / arch, ignore_errors=True)
    out = WORK / f"wheel-{arch}"  # a separate folder, because the user's folder may contain wheels of other versions
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    run([*command, *(f"-C{option}" for option in options)], f"the wheel for {arch} can't be built")
    (wheel,) = out.iterdir()
    return wheel


def native_options(source: Path, arch: str) -> list[str]:
    """Return scikit-build-core's settings for a wheel with native libraries."""
    # Build all libraries except the GPU libraries.
    defines = {"VMOE_ZIG": str(zig()), "VMOE_REQUIRE_ALL": "ON", "VMOE_GPU": "OFF"}
    if arch in ARCHITECTURES:
        defines["VMOE_ARCH"] = arch
    toolchain = "manylinux.cmake" if arch in ARCHITECTURES else "macos.cmake"
    return [
        f"build-dir={WORK / arch}",
        f"wheel.tags=py3-none-{platform(arch)}",
        "install.strip=false",  # the install step need not strip, because zig's linker already does
        f"cmake.toolchain-file={source / 'plugins' / 'cmake' / toolchain}",
        *(f"cmake.define.{name}={value}" for name, value in defines.items()),
    ]


def compiled_in_licences() -> str:
    """Return the licences of third-party code in the libraries: headers from Debian packages, and zig's libraries."""
    files = [Path("/usr/share/doc", package, "copyright") for package in COMPILED_IN]
    files += [zig().parent / "LICENSE", zig().parent / "lib" / "libcxx" / "LICENSE.TXT"]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BuildError(f"licences of compiled-in code are missing: {', '.join(missing)}")
    return "\n".join(f"==== {path.parent.name}\n\n{path.read_text(encoding='utf-8')}" for path in files)


def unpacked(sdist: Path) -> Path:
    """Unpack a source archive into a folder, and return the folder.

    Files whose content has not changed since the last build are taken from that build's folder. This lets zig's cache
    recognize them.
    """
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
    """Return the path of the zig program in the Python package ziglang."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise BuildError("ziglang is not installed; run pip install -r tools/requirements.txt")
    return Path(found.origin).with_name("zig")


def platform(arch: str) -> str:
    """Return the wheel's platform tag for an architecture."""
    return MACOS_PLATFORM if arch == MACOS else f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{arch}"


def audited(wheel: Path, arch: str) -> str:
    """Return the platform tag that auditwheel finds for a wheel.

    Raises:
        BuildError: the wheel needs a newer system than its name says.
    """
    report = run([sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)], "auditwheel can't read the wheel")
    tag = str(json.loads(report)["overall_tag"])
    found = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{arch}", tag)
    if not found or (int(found[1]), int(found[2])) > GLIBC:
        raise BuildError(f"auditwheel finds that {wheel.name} is {tag}, not {platform(arch)}")
    return tag


def described(wheel: Path) -> str:
    """Return the name and size of a wheel, and the names and sizes of the libraries in it."""
    with zipfile.ZipFile(wheel) as archive:
        libraries = [entry for entry in archive.infolist() if entry.filename.endswith((".so", ".dylib"))]
    sizes = ", ".join(f"{Path(entry.filename).name} {entry.file_size / 1e6:.2f} MB" for entry in libraries)
    return f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB with {sizes or 'no library'}"


def run(command: list[str], what_failed: str) -> str:
    """Run a command in this tree, and return its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print((done.stdout + done.stderr)[-4000:], file=sys.stderr)
        raise BuildError(what_failed)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
