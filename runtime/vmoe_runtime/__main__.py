"""`python -m vmoe_runtime`: prints where the native files of this installation are, for build systems."""

from __future__ import annotations

import argparse
import sys

from vmoe_runtime.installation import (
    CUDA_OP_LIBRARY,
    OP_LIBRARY,
    SDK_LIBRARY,
    TENSORRT_PLUGIN,
    TENSORRT_REGISTER,
    NotInstalledError,
    __version__,
    find_native,
    native_path,
)

_PROGRAM = "python -m vmoe_runtime"
# Option: the file in words, the library it is installed along with, and where it is.
_FILES = {
    "--cmake-dir": ("CMake package", SDK_LIBRARY, "lib", "cmake", "vmoe"),
    "--include-dir": ("C++ headers", SDK_LIBRARY, "include"),
    "--op-library": ("op library", OP_LIBRARY, "lib", OP_LIBRARY),
    "--cuda-op-library": ("CUDA op library", CUDA_OP_LIBRARY, "lib", CUDA_OP_LIBRARY),
    "--tensorrt-plugin": ("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_PLUGIN),
    "--tensorrt-register": ("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER),
}


def main(argv: list[str] | None = None) -> int:
    """Prints one path and returns 0, or one sentence on stderr and returns 1 where this installation has no such file."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Prints where native files of this installation are.")
    parser.add_argument("--version", action="version", version=f"vmoe_runtime, version {__version__}")
    choice = parser.add_mutually_exclusive_group(required=True)
    for option, meaning in {
        "--cmake-dir": "folder of the CMake package, for -Dvmoe_DIR= or CMAKE_PREFIX_PATH",
        "--include-dir": "folder of the C++ SDK's headers",
        "--library-dir": "folder of the shared libraries",
        "--op-library": "the op library for ONNX Runtime",
        "--cuda-op-library": "the op library for ONNX Runtime's CUDA provider",
        "--tensorrt-plugin": "the TensorRT plugin, for loaders that register plugins themselves",
        "--tensorrt-register": "the library that registers the plugin once it is loaded, for all other loaders",
    }.items():
        choice.add_argument(option, dest="wanted", action="store_const", const=option, help=meaning)
    try:
        print(_path(parser.parse_args(argv).wanted))
    except NotInstalledError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


def _path(wanted: str) -> object:
    if wanted in _FILES:
        return native_path(*_FILES[wanted])
    sdk = find_native("lib", SDK_LIBRARY)
    return (sdk or native_path("native libraries", OP_LIBRARY, "lib", OP_LIBRARY)).parent


if __name__ == "__main__":
    sys.exit(main())
