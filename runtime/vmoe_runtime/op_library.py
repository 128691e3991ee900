"""Finds and loads the native op library, if this installation has one."""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path

from vmoe_runtime.installation import OP_LIBRARY, find_native, native_path, why_missing


def find_library() -> Path | None:
    """Return the path of the op library, or None if the package was installed without it."""
    return find_native("lib", OP_LIBRARY)


def usable_library() -> tuple[Path | None, str]:
    """Return the op library's path and an empty string. If this process can't load it, return None and the reason.

    If loading fails, the process warns once. Without the op library, bundles run on standard ops, which are several times
    slower.
    """
    library = find_library()
    if library is None:
        sentence = f"this installation of vmoe-export has no op library: {why_missing(OP_LIBRARY)}"
        warn_once(f"{sentence}. Bundles run on standard ops without it, which take several times as long")
        return None, sentence
    failure = load_failure(library)
    if failure is None:
        return library, ""
    sentence = f"the op library {library} can't be loaded: {failure}"
    warn_once(f"{sentence}; going on with standard ops, which are slower. Install vmoe-export again")
    return None, sentence


@functools.cache
def warn_once(sentence: str) -> None:
    """Give a warning. If this process has already given the same warning, do nothing."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)


def library_path() -> str:
    """Return the path of the op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        BackendError: this installation has no op library; the message says what to install. Without the op library, bundles
            run on standard ops.
    """
    return str(native_path("op library", OP_LIBRARY, "lib", OP_LIBRARY))


def cpu_path(library: Path) -> str:
    """Return the name of the instruction set that the op library's kernels use on this machine.

    Examples of names are "amx" and "avx512_vnni".

    Args:
        library: an op library that this process can load.
    """
    name = ctypes.CDLL(str(library)).vmoe_cpu_path
    name.restype = ctypes.c_char_p
    return str(name().decode())


def load_failure(library: Path) -> str | None:
    """Load a library. If this process can't load it, return the reason, else None."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).removeprefix(f"{library}: ")
    return None
