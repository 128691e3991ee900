"""Builds the kernels for one card with nvcc, and calls them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from command_line import BenchmarkError

from gpu.shapes import TYPES, Shape

PLUGINS = Path(__file__).parents[2] / "plugins"
_HERE = Path(__file__).parent
_USUAL_FOLDER = Path("/usr/local/cuda/bin")
_FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-lineinfo", "-Xcompiler=-fPIC,-Wall,-Wextra")


def find_program(name: str) -> Path | None:
    """A program of the CUDA toolkit: on the PATH, below CUDA_HOME, or in its usual place."""
    home = os.environ.get("CUDA_HOME")
    folders = [*([Path(home, "bin")] if home else []), _USUAL_FOLDER]
    candidates = [shutil.which(name), *(folder / name for folder in folders)]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def find_nvcc() -> Path:
    """The compiler.

    Raises:
        BenchmarkError: there is none.
    """
    nvcc = find_program("nvcc")
    if nvcc is None:
        raise BenchmarkError("there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to where it is")
    return nvcc


def kernel_sources() -> list[Path]:
    """The sources of the GPU kernels."""
    folder = PLUGINS / "cuda"
    return sorted((*folder.glob("*.cu"), *folder.glob("*.cc")))


def library_command(nvcc: Path, architecture: str, target: Path) -> list[str]:
    """The line that builds the shared library for a card, such as "sm_90"."""
    sources = [_HERE / "kernel_calls.cc", _HERE / "extra_kernels.cu", *kernel_sources()]
    options = ["-shared", f"-arch={architecture}", f"-I{PLUGINS}"]
    return [str(nvcc), *_FLAGS, *options, *map(str, sources), "-o", str(target)]


def build(command: list[str]) -> Path:
    """Runs a line of this module; returns what it built.

    Raises:
        BenchmarkError: the compiler failed; says with what.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # What g++ only warns of comes first, and is not why.
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line or "fatal" in line), "; ".join(lines[-2:]))
        raise BenchmarkError(f"nvcc can't build the kernels: {why[:400]}")
    return Path(command[-1])


class DeviceError(BenchmarkError, RuntimeError):
    """CUDA refused a call. Carries what was called and CUDA's own words; it is a RuntimeError, as torch's are."""


class _CShape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("groups", "tokens", "experts", "choices", "capacity")),
        ("batch_priority", ctypes.c_int32),
    )


_P, _N, _I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "error_text": (ctypes.c_char_p, (ctypes.c_int,)),
    "route_workspace_bytes": (_N, (_P,)),
    "route_dispatch_workspace_bytes": (_N, (_P,)),
    "route": (ctypes.c_int, (_P, _I, _P, _P, _P, _P, _P, _P)),
    "dispatch": (ctypes.c_int, (_P, _N, _P, _N, _N, _P, _P)),
    "route_dispatch": (ctypes.c_int, (_P, _I, _P, _P, _N, _P, _P, _P, _P, _P)),
    "combine": (ctypes.c_int, (_I, _P, _N, _P, _I, _P, _N, _N, _N, _P, _P)),
    "empty": (ctypes.c_int, (_P,)),
    "begin_count": (ctypes.c_int, (_P,)),
    "end_count": (ctypes.c_int, (_P, _P)),
    "allocate": (ctypes.c_int, (_P, _N)),
    "release": (ctypes.c_int, (_P,)),
    "copy": (ctypes.c_int, (_P, _P, _N)),
    "synchronize": (ctypes.c_int, ()),
    "plant": (ctypes.c_int, (ctypes.c_char_p,)),
}
FUNCTIONS = tuple(f"vmoe_gpu_{name}" for name in _SIGNATURES)
"""What the library exports for these calls."""


def c_shape(shape: Shape) -> Any:
    """A shape as the calls take it."""
    sizes = shape.groups, shape.tokens, shape.experts, shape.choices, shape.capacity
    return ctypes.byref(_CShape(*sizes, int(shape.bpr)))


class Library:
    """The kernels on addresses: all pointers and streams are plain integers, and nothing is checked or kept alive."""

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
            self._calls = {name: getattr(library, f"vmoe_gpu_{name}") for name in _SIGNATURES}
        except (OSError, AttributeError) as error:
            raise BenchmarkError(f"{path} can't be loaded: {error}") from None
        for name, (result, arguments) in _SIGNATURES.items():
            self._calls[name].restype, self._calls[name].argtypes = result, arguments

    def workspace_bytes(self, shape: Shape) -> int:
        """Bytes of workspace that serve Route and RouteDispatch."""
        names = ("route_workspace_bytes", "route_dispatch_workspace_bytes")
        return max(int(self._calls[name](c_shape(shape))) for name in names)

    def launch(self, kernel: str, shape: Shape, at: dict[str, int], stream: int) -> None:
        """Puts a kernel of `gpu.floors.KERNELS` on a stream, with its tensors and workspace at these addresses."""
        gate, token = TYPES.index(shape.gate_type), TYPES.index(shape.type)
        routed = at["slot"], at["weight"]
        if kernel == "Route":
            self.call("route", c_shape(shape), gate, at["gates"], *routed, at["src"], at["workspace"], stream)
        elif kernel == "Dispatch":
            sizes = shape.places, shape.row_bytes
            self.call("dispatch", at["x"], shape.all_tokens, at["src"], *sizes, at["buf"], stream)
        elif kernel == "RouteDispatch":
            tensors = at["gates"], at["x"], shape.row_bytes, *routed, at["buf"], at["workspace"]
            self.call("route_dispatch", c_shape(shape), gate, *tensors, stream)
        else:
            sizes = shape.all_tokens, shape.choices, shape.hidden
            rows = at["out"], shape.places, at["slot"], gate, at["weight"]
            self.call("combine", token, *rows, *sizes, at["y"], stream)

    def count_nodes(self, stream: int, work: Any) -> int:
        """How many graph nodes `work` puts on the stream, instead of running them."""
        nodes = ctypes.c_size_t()
        self.call("begin_count", stream)
        try:
            work()
        finally:
            self.call("end_count", stream, ctypes.byref(nodes))
        return nodes.value

    def allocate(self, size: int) -> int:
        """Device memory, which `call("release", address)` gives back."""
        address = ctypes.c_void_p()
        self.call("allocate", ctypes.byref(address), size)
        return address.value or 0

    def copy_to(self, address: int, data: bytes) -> None:
        """Copies bytes to the card."""
        self.call("copy", address, data, len(data))

    def copy_from(self, address: int, size: int) -> bytes:
        """Copies bytes from the card."""
        data = ctypes.create_string_buffer(size)
        self.call("copy", data, address, size)
        return data.raw

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the library.

        Raises:
            DeviceError: CUDA refused it.
        """
        error = self._calls[name](*arguments)
        if error != 0:
            raise DeviceError(f"{name}: CUDA says '{self._calls['error_text'](error).decode()}' (error {error})")
