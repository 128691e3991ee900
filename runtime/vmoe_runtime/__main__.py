"""`python -m vmoe_runtime` prints the paths of this installation's native files. Build systems use it."""

from __future__ import annotations

import argparse
import sys

from vmoe_runtime import installation
from vmoe_runtime.installation import CUDA_OP_LIBRARY, OP_LIBRARY, SDK_LIBRARY, TENSORRT_PLUGIN, TENSORRT_REGISTER

# Maps each option to its help text and to the arguments of `installation.native_path`.
_FILES = {
    "--cmake-dir": ("folder of the CMake package", "CMake package", SDK_LIBRARY, "lib", "cmake", "vmoe"),
    "--include-dir": ("folder of the C++ headers", "C++ headers", SDK_LIBRARY, "include"),
    "--library-dir": ("folder of the shared libraries", "native libraries", OP_LIBRARY, "lib", OP_LIBRARY),
    "--op-library": ("op library for ONNX Runtime", "op library", OP_LIBRARY, "lib", OP_LIBRARY),
    "--cuda-op-library": ("the same for CUDA", "CUDA op library", CUDA_OP_LIBRARY, "lib", CUDA_OP_LIBRARY),
    "--tensorrt-plugin": ("TensorRT plugin", "TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_PLUGIN),
    "--tensorrt-register": ("registers it when loaded", "TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER),
}


def main(argv: list[str] | None = None) -> int:
    """Print the requested path and return 0.

    If this installation lacks the requested file, print a message on stderr and return 1.
    """
    parser = argparse.ArgumentParser("python -m vmoe_runtime", description="Prints where a native file or folder is.")
    parser.add_argument("--version", action="version", version=f"vmoe_runtime, version {installation.__version__}")
    choice = parser.add_mutually_exclusive_group(required=True)
    for option, (meaning, *file) in _FILES.items():
        choice.add_argument(option, dest="file", action="store_const", const=file, help=meaning)
    try:
        what, *file = parser.parse_args(argv).file
        path = installation.native_path(what, *file)
        print(path.parent if what == "native libraries" else path)
    except installation.NotInstalledError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
