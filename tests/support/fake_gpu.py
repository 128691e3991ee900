"""Fakes for machines without a GPU.

One fake is a driver that reports any GPU that a test specifies. The other one is a CUDA op library that reports any build
that a test specifies.
"""

from __future__ import annotations

from pathlib import Path

from sdk_build import built

NAME = "NVIDIA Emulator"

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, NAME, size); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { *value = attribute == 75 ? MAJOR : MINOR; return 0; }
int cuGetErrorString(int code, const char** text) { *text = "no error"; return 0; }
"""
_LIBRARY = """
const char* vmoe_cuda_architectures(void) { return ARCHITECTURES; }
int vmoe_cuda_version(void) { return VERSION; }
"""


def driver(folder: Path, capability: str, cuda: tuple[int, int], more: str = "") -> Path:
    """Build a libcuda.so.1 that reports one GPU, and return the library's path.

    The library reports the given CUDA version and compute capability. `more` is C source code of further functions.
    """
    major, minor = capability.split(".")
    version = cuda[0] * 1000 + cuda[1] * 10
    defined = {"VERSION": version, "MAJOR": major, "MINOR": minor, "NAME": f'"{NAME}"'}
    return compiled(folder / f"{capability}-{version}" / "libcuda.so.1", _DRIVER + more, defined)


def op_library(folder: Path, architectures: str, cuda: int) -> Path:
    """Build a library without ops, and return its path.

    The library reports its architectures and CUDA version in the same way as the CUDA op library.
    """
    folder = folder / f"{architectures.replace(' ', '_')}-{cuda}"
    return compiled(
        folder / "libvmoe_onnxruntime_cuda.so", _LIBRARY, {"VERSION": cuda, "ARCHITECTURES": f'"{architectures}"'}
    )


def compiled(library: Path, source: str, defined: dict[str, object]) -> Path:
    """Compile C source to a library, with the macros `defined`, and return the library's path."""
    library.parent.mkdir(parents=True, exist_ok=True)
    file = library.with_suffix(".c")
    file.write_text(source)
    options = [f"-D{name}={value}" for name, value in defined.items()]
    built("cc", "-shared", "-fPIC", *options, file, "-o", library)
    return library
