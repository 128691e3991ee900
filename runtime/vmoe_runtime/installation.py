"""The version of this installation, the paths of its native files, and the reasons why native files are missing."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from vmoe_runtime.errors import UnavailableError

_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

OP_LIBRARY = f"libvmoe_onnxruntime{_SUFFIX}"
SDK_LIBRARY = f"libvmoe_engine{_SUFFIX}"
CUDA_OP_LIBRARY = "libvmoe_onnxruntime_cuda.so"
TENSORRT_PLUGIN = "libvmoe_tensorrt.so"
TENSORRT_REGISTER = "libvmoe_tensorrt_register.so"  # library that is built along with the TensorRT plugin

_MISSING = Path("lib", "missing.txt")  # written by the build; a line is "LIBRARY: what its build lacked"


def installed_version(name: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


__version__ = installed_version("vmoe-export") or "0+unknown"
"""Version of this distribution; "0+unknown" if the sources are used without being installed."""


def oldest_supported(name: str) -> str:
    """Return the oldest supported version of a distribution such as "onnxruntime", as declared in pyproject.toml.

    The result is "0+unknown" if this package is not installed.
    """
    needed = requires("vmoe-export") if installed_version("vmoe-export") else None
    found = (each.partition(";")[0].strip().partition(">=") for each in needed or ())
    return next((number for needed_name, _, number in found if needed_name == name), "0+unknown")


def too_old(name: str, version: str) -> bool:
    """Return whether a version is older than the oldest supported version.

    Only major and minor version numbers are compared.
    """
    release, oldest = ([int(n) for n in re.findall(r"\d+", each)[:2]] for each in (version, oldest_supported(name)))
    return release < oldest


class NotInstalledError(UnavailableError):
    """This installation was built without a native file."""


def find_native(*path: str) -> Path | None:
    """Return the path of a native file or folder, or None if this installation lacks it.

    The arguments are the parts of the path below the package's folder. An editable installation keeps native files next to
    its metadata, not next to these sources.
    """
    return next((folder.joinpath(*path) for folder in _folders() if folder.joinpath(*path).exists()), None)


def native_path(what: str, library: str, *path: str) -> Path:
    """Return the path of a native file or folder that is installed along with a library.

    Args:
        what: a description of the file for the error message.
        library: file name of the library.
        path: parts of the file's path below the package's folder.

    Raises:
        NotInstalledError: this installation has no such file; the message says what to install.
    """
    found = find_native(*path)
    if found is None:
        raise NotInstalledError(f"this installation of vmoe-export has no {what}: {why_missing(library)}")
    return found


def _folders() -> list[Path]:
    here = Path(__file__).parent
    try:
        installed = Path(str(distribution("vmoe-export").locate_file(here.name)))
    except PackageNotFoundError:
        return [here]
    return [here, installed]


def why_missing(library: str) -> str:
    """Return the reason why this installation was built without `library`, and the way to get it."""
    built_for = ("linux", "darwin") if library in (OP_LIBRARY, SDK_LIBRARY) else ("linux",)
    if sys.platform not in built_for:
        return f"{library} can't be built for {sys.platform}"
    record = find_native(*_MISSING.parts)
    lines = record.read_text(encoding="utf-8").splitlines() if record else []
    reasons = dict(line.split(": ", 1) for line in lines if ": " in line)
    if library not in reasons:
        return f"{library} was not built with it; run 'pip install .' in the source folder, or install a wheel"
    return (
        f"the machine that built it lacked {reasons[library].replace(', ', ' and ')}; install what is missing and "
        "run 'pip install .' in the source folder again, or install a wheel ('make wheel'), which has all of them"
    )
