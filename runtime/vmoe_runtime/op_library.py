"""Where the native op library is, if this installation has one."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

from vmoe_runtime.errors import BackendError
from vmoe_runtime.installation import OP_LIBRARY, NotInstalledError, find_native, native_path


def find_library() -> Path | None:
    """Path of the op library, or None where the package was installed without it."""
    return find_native("lib", OP_LIBRARY)


def library_path() -> str:
    """Path of the op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        BackendError: this installation has none; says what to install. Bundles run without it, on standard ops.
    """
    try:
        return str(native_path("op library", OP_LIBRARY, "lib", OP_LIBRARY))
    except NotInstalledError as error:
        raise BackendError(f"{error}; bundles run without it, on standard ops") from None


def cpu_path(library: Path) -> str:
    """Name of the instruction set that the op library's kernels take on this machine, such as "amx" or "avx512_vnni".

    Args:
        library: an op library that a session has registered already.
    """
    name = ctypes.CDLL(str(library)).vmoe_cpu_path
    name.restype = ctypes.c_char_p
    return str(name().decode())


def is_cut_short(library: Path) -> bool:
    """Whether a file ends before its ELF header says it does: loading it would end the process instead of failing."""
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF\x02\x01"):
        return False  # no 64-bit ELF file at all, which the loader refuses
    (offset,) = struct.unpack_from("<Q", header, 40)
    entry_size, entries = struct.unpack_from("<HH", header, 58)
    end: int = offset + entry_size * entries
    return library.stat().st_size < end
