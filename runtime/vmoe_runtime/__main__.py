"""`python -m vmoe_runtime`: prints where the native files of this installation are, for build systems."""

from __future__ import annotations

import argparse
import sys

from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY, NotInstalledError, find_native, native_path

_PROGRAM = "python -m vmoe_runtime"


def main(argv: list[str] | None = None) -> int:
    """Prints one path and returns 0, or one sentence on stderr and returns 1 where this installation has no such file."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Prints where native files of this installation are.")
    choice = parser.add_mutually_exclusive_group(required=True)
    for option, meaning in {
        "--cmake-dir": "folder of the CMake package, for -Dvmoe_DIR= or CMAKE_PREFIX_PATH",
        "--include-dir": "folder of the C++ SDK's headers",
        "--library-dir": "folder of the shared libraries",
        "--op-library": "the op library for ONNX Runtime",
    }.items():
        choice.add_argument(option, dest="wanted", action="store_const", const=option, help=meaning)
    try:
        print(_path(parser.parse_args(argv).wanted))
    except NotInstalledError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


def _path(wanted: str) -> object:
    match wanted:
        case "--cmake-dir":
            return native_path("CMake package", SDK_LIBRARY, "lib", "cmake", "vmoe")
        case "--include-dir":
            return native_path("C++ headers", SDK_LIBRARY, "include")
        case "--op-library":
            return native_path("op library", OP_LIBRARY, "lib", OP_LIBRARY)
    sdk = find_native("lib", SDK_LIBRARY)
    return (sdk or native_path("native libraries", OP_LIBRARY, "lib", OP_LIBRARY)).parent


if __name__ == "__main__":
    sys.exit(main())
