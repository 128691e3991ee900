"""Gets the files of onnxruntime-web that a page needs, from npm or from a folder."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import click

VERSION = "1.30.0"
"""The version to fetch with npm, which the page was tested with."""

BUILDS = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
"""For each build, the module to import and its WebAssembly file. A browser loads one build."""

_INSTEAD = f"--onnxruntime-web DIR takes an unpacked onnxruntime-web {VERSION} instead"


def web_files(folder: Path | None) -> tuple[dict[str, bytes], str]:
    """Return the contents of the files by name, and a string that describes their origin.

    Args:
        folder: an unpacked onnxruntime-web; None to fetch it with npm.

    Raises:
        click.ClickException: npm is missing or fails, or a file is missing.
    """
    if folder is not None:
        return _read(folder), f"from {folder}"
    with TemporaryDirectory() as place:
        _fetch(place)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
            archive.extractall(place, filter="data")
        return _read(Path(place) / "package"), f"{VERSION} from npm"


def _read(folder: Path) -> dict[str, bytes]:
    base = folder / "dist" if (folder / "dist").is_dir() else folder
    try:
        return {name: (base / name).read_bytes() for names in BUILDS.values() for name in names}
    except OSError as error:
        raise click.ClickException(f"{error.filename} can't be read ({error.strerror}); {_INSTEAD}") from None


def _fetch(place: str) -> None:
    """Fetch the package with npm into the folder `place`. npm verifies the package's checksum."""
    options = ("--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error")
    command = ["npm", "pack", f"onnxruntime-web@{VERSION}", *options]
    try:
        done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise click.ClickException(f"npm, which fetches onnxruntime-web, is not installed; {_INSTEAD}") from None
    if done.returncode:
        lines = [line.removeprefix("npm error ") for line in done.stderr.splitlines()]
        why = next((line for line in lines if not line.startswith(("code ", "errno ", "syscall "))), "without a message")
        raise click.ClickException(f"npm couldn't fetch onnxruntime-web ({why}); {_INSTEAD}")
