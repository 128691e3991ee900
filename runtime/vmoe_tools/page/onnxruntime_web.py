"""The files of onnxruntime-web that a page needs: from npm, or from a folder."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click

VERSION = "1.30.0"
"""What npm is asked for; the page was tested with it."""

BUILDS = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
"""Of each build the module to import, and its WebAssembly. A browser loads one of them."""


def web_files(folder: Path | None) -> tuple[dict[str, bytes], str]:
    """The content of the files by name, and in words where they are from.

    Args:
        folder: an unpacked onnxruntime-web; None has npm fetch it.

    Raises:
        click.ClickException: npm is missing or fails, or files are.
    """
    if folder is not None:
        places = (folder / "dist", folder)
        base = next((place for place in places if (place / BUILDS["wasm"][0]).is_file()), None)
        if base is None:
            raise click.ClickException(
                f"--onnxruntime-web {folder} holds no {BUILDS['wasm'][0]}, nor does a folder dist in it"
            )
        return _read(lambda name: (base / name).read_bytes()), f"{_version(folder)} from {folder}"
    with TemporaryDirectory() as place:
        _fetch(place)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:

            def content(name: str) -> bytes:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                return file.read()

            return _read(content), f"{VERSION} from npm"


def _read(content: Callable[[str], bytes]) -> dict[str, bytes]:
    try:
        return {name: content(name) for names in BUILDS.values() for name in names}
    except (KeyError, FileNotFoundError) as error:
        name = getattr(error, "filename", None) or error
        raise click.ClickException(f"onnxruntime-web lacks a file: {name}; version {VERSION} has it") from None


def _version(folder: Path) -> str:
    try:
        return str(json.loads((folder / "package.json").read_bytes())["version"])
    except (OSError, ValueError, TypeError, KeyError):
        return "of unknown version"


def _fetch(place: str) -> None:
    """Has npm put the package, whose checksum it compares, into a folder."""
    options = ("--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error")
    command = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", place, *options]
    instead = f"--onnxruntime-web DIR takes an unpacked onnxruntime-web {VERSION} instead"
    try:
        done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise click.ClickException(f"npm, which fetches onnxruntime-web, is not installed; {instead}") from None
    if done.returncode:
        lines = [line.partition("npm error ")[2] for line in done.stderr.splitlines()]
        why = next(
            (line for line in lines if line and not line.startswith(("code ", "errno ", "syscall "))), "no reason given"
        )
        raise click.ClickException(f"npm couldn't fetch onnxruntime-web ({why}); {instead}")
