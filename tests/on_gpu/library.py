"""Build the kernels for one GPU with nvcc, and call them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from command_line import BenchmarkError

from on_gpu.shape import TYPES, Shape

KERNELS = ("route", "dispatch", "route_dispatch", "combine")
PLUGINS = Path(__file__).parents[2] / "plugins"
CALLS = Path(__file__).with_name("kernel_calls.cc")
EXTRA_KERNELS = Path(__file__).with_name("extra_kernels.cu")
TILE_PAIRS = 2048  # groups with more pairs (S * K) are routed in several launches
_USUAL_FOLDER = Path("/usr/local/cuda/bin")
_FOLDER_OF_MAKE = Path(__file__).parents[2] / "build" / "nvcc"  # of make nvcc
_FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-Wall,-Wextra", "-shared", f"-I{PLUGINS}")


def find_program(name: str) -> Path | None:
    """Return the path of a CUDA toolkit program. Search the PATH, CUDA_HOME, the usual folder, and that of `make nvcc`."""
    home = os.environ.get("CUDA_HOME")
    made = _FOLDER_OF_MAKE.glob("lib/python*/site-packages/nvidia/cu*/bin")
    folders = [*([Path(home, "bin")] if home else []), _USUAL_FOLDER, *made]
    candidates = [shutil.which(name), *(folder / name for folder in folders)]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def find_nvcc() -> Path:
    """Return the path of nvcc.

    Raises:
        BenchmarkError: nvcc is not installed.
    """
    nvcc = find_program("nvcc")
    if nvcc is None:
        raise BenchmarkError("there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to where it is")
    return nvcc


def kernel_sources() -> list[Path]:
    """Return the source files of the GPU kernels."""
    folder = PLUGINS / "cuda"
    return sorted((*folder.glob("*.cu"), *folder.glob("*.cc")))


def library_command(nvcc: Path, target: Path, architecture: str) -> list[str]:
    """Return the command that builds the shared library for an architecture, such as "sm_90"."""
    return nvcc_command(nvcc, target, (f"-arch={architecture}", "-lineinfo"))


def nvcc_command(nvcc: Path, target: Path, options: Sequence[str], sources: Sequence[Path] = ()) -> list[str]:
    """Return the command that builds the shared library with further options and source files."""
    return [str(nvcc), *_FLAGS, *options, *map(str, (CALLS, EXTRA_KERNELS, *kernel_sources(), *sources)), "-o", str(target)]


def build(command: list[str]) -> Path:
    """Run a command from `nvcc_command`, and return the path of the library that it built.

    Raises:
        BenchmarkError: the compiler failed. The message contains the compiler's error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # Search for the line with the error. The output begins with g++ warnings, which are not the cause.
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line or "fatal" in line), "; ".join(lines[-2:]))
        raise BenchmarkError(f"nvcc can't build the kernels: {why[:400]}")
    return Path(command[-1])


def kernel_launches(shape: Shape) -> dict[str, int]:
    """Return the number of launches of each op. Each launch is one node of a CUDA graph."""
    small = shape.tokens * shape.choices <= TILE_PAIRS
    return {"gates": 1, "route": 1 if small else 2, "dispatch": 1, "route_dispatch": 1 if small else 3, "combine": 1}


class DeviceError(BenchmarkError, RuntimeError):
    """Error raised if CUDA refuses a call. The message contains the call and CUDA's own message.

    It is also a RuntimeError, like torch's errors.
    """


def c_shape(shape: Shape) -> Any:
    """Convert a shape to the array that the C functions expect."""
    sizes = shape.groups, shape.tokens, shape.experts, shape.choices, shape.capacity, shape.bpr
    return (ctypes.c_size_t * len(sizes))(*sizes)


class Library:
    """The loaded library of the kernels. Its functions take the addresses of tensors.

    Pointers and streams are plain integers. The library does not check addresses, and does not keep tensors alive.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BenchmarkError(f"{path} can't be loaded: {error}") from None
        self._library.vmoe_gpu_error_text.restype = ctypes.c_char_p
        self._library.vmoe_gpu_route_workspace_bytes.restype = ctypes.c_size_t
        self._library.vmoe_gpu_route_dispatch_workspace_bytes.restype = ctypes.c_size_t

    def workspace_bytes(self, shape: Shape, fused: bool = True) -> int:
        """Return the size in bytes of the workspace of route_dispatch or, if `fused` is not set, of route.

        The former is also enough for the latter.
        """
        functions = self._library.vmoe_gpu_route_workspace_bytes, self._library.vmoe_gpu_route_dispatch_workspace_bytes
        return int(functions[fused](c_shape(shape)))

    def launch(self, kernel: str, shape: Shape, at: dict[str, int], stream: int) -> None:
        """Launch a kernel on a stream.

        `kernel` is its name in KERNELS. `at` contains the addresses of tensors and workspace.
        """
        routed = at["slot"], at["weight"]
        if kernel == "route":
            self.call("route", c_shape(shape), at["gates"], *routed, at["src"], 0, at["workspace"], stream)
        elif kernel == "dispatch":
            sizes = shape.all_slots, shape.row_bytes
            self.call("dispatch", at["x"], shape.all_tokens, at["src"], *sizes, at["buf"], stream)
        elif kernel == "route_dispatch":
            tensors = at["gates"], at["x"], shape.row_bytes, *routed, at["buf"], at["workspace"]
            self.call("route_dispatch", c_shape(shape), *tensors, stream)
        else:
            sizes = shape.all_tokens, shape.choices, shape.hidden
            rows = at["out"], shape.all_slots, at["slot"], at["weight"]
            self.call("combine", TYPES.index(shape.type), *rows, *sizes, at["y"], stream)

    def count_launches(self, stream: int, work: Callable[[], object]) -> int:
        """Return the number of CUDA graph nodes that `work` puts on the stream. The GPU does not run the work.

        The stream must not be the default stream.

        Raises:
            DeviceError: `work` allocates or synchronizes.
        """
        nodes = ctypes.c_size_t()
        self.call("begin_count", stream)
        try:
            work()
        finally:
            self.call("end_count", stream, ctypes.byref(nodes))
        return nodes.value

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. `name` is the function's name without the prefix.

        Integers are passed in the size of a pointer.

        Raises:
            DeviceError: CUDA refused the call.
        """
        words = [ctypes.c_void_p(word) if isinstance(word, int) else word for word in arguments]
        error = getattr(self._library, f"vmoe_gpu_{name}")(*words)
        if error != 0:
            raise DeviceError(f"{name}: CUDA says '{self._library.vmoe_gpu_error_text(error).decode()}' (error {error})")
