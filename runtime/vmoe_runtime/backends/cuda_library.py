"""Finds the CUDA op library, and checks that this machine's GPU and driver can run its code."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from vmoe_runtime import op_library
from vmoe_runtime.backends.nvidia_gpu import Gpu
from vmoe_runtime.errors import BackendError, UnavailableError
from vmoe_runtime.installation import CUDA_OP_LIBRARY, find_native

_UNPACKING_DRIVER = 12, 4  # oldest CUDA version whose driver can decompress machine code; see plugins/cuda/CMakeLists.txt
_ARCHITECTURE = re.compile(r"([0-9]+)([0-9])(-real|-virtual)?")


def find_cuda_library() -> Path | None:
    """Return the path of the CUDA op library, or None if the package was installed without it."""
    return find_native("lib", CUDA_OP_LIBRARY)


def usable_cuda_library(gpu: Gpu, part: str) -> Path | None:
    """Check that the CUDA op library runs on `gpu`, and return its path. Return None if it is not installed.

    Args:
        gpu: the GPU to run on.
        part: the name to use in error messages: "CUDA op library" or "TensorRT plugin". The plugin can't report its
            architectures, so the op library is checked in its place. Both were compiled for the same architectures.

    Raises:
        UnavailableError: the library has no code for the GPU, or needs a newer driver.
        BackendError: this process can't load the library.
    """
    library = find_cuda_library()
    if library is None:
        return None
    failure = op_library.load_failure(library)
    if failure is not None:
        raise BackendError(f"the CUDA op library {library} can't be loaded: {failure}; install vmoe-export again")
    loaded = ctypes.CDLL(str(library))
    loaded.vmoe_cuda_architectures.restype = ctypes.c_char_p
    # The driver's minor CUDA version may be lower than the one that the code was compiled with. But the driver must be
    # able to decompress the code.
    gpu.check_driver(f"the {part}", max(_UNPACKING_DRIVER, (loaded.vmoe_cuda_version() // 1000,)))
    architectures = loaded.vmoe_cuda_architectures().decode()
    if not runs_on(architectures, gpu.compute_capability):
        raise UnavailableError(
            f"the {part} was compiled for the architectures {architectures}, and {gpu.name} has compute capability "
            f"{gpu.compute_capability}; take a backend for the CPU"
        )
    return library


def runs_on(architectures: str, compute_capability: str) -> bool:
    """Return whether code compiled for `architectures` runs on a GPU.

    Args:
        architectures: GPU architectures as CMake writes them, separated by spaces. Code for an entry that isn't a number,
            such as "native", is assumed to run.
        compute_capability: compute capability of the GPU, such as "9.0".

    Examples:
        >>> [runs_on("80-real 90-real 120-virtual", gpu) for gpu in ("7.5", "8.6", "10.0", "12.1", "13.0")]
        [False, True, False, True, True]
    """
    major, minor = map(int, compute_capability.split("."))
    for architecture in architectures.split():
        match = _ARCHITECTURE.fullmatch(architecture)
        if match is None:
            return True
        # Machine code runs on GPUs of the same major version and the same or a higher minor version. PTX runs on GPUs of the
        # same or any higher version.
        if match[3] != "-virtual" and major == int(match[1]) and minor >= int(match[2]):
            return True
        if match[3] != "-real" and (major, minor) >= (int(match[1]), int(match[2])):
            return True
    return False
