"""Where the native op library is, if this installation has one."""

from __future__ import annotations

from pathlib import Path

from vmoe_runtime.errors import BackendError

_LIBRARY = Path(__file__).parent / "lib" / "libvmoe_onnxruntime.so"


def find_library() -> Path | None:
    """Path of the op library, or None where the package was installed without it."""
    return _LIBRARY if _LIBRARY.is_file() else None


def library_path() -> str:
    """Path of the op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        BackendError: this installation has none.
    """
    library = find_library()
    if library is None:
        raise BackendError(
            f"this installation of vmoe-export has no op library ({_LIBRARY} is not there); "
            "bundles run without it, on standard ops"
        )
    return str(library)
