"""Builds the kernels for one card with nvcc, and calls them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cpu.errors import BenchmarkError

from gpu.shapes import TYPES, Shape, Type

PLUGINS = Path(__file__).parents[2] / "plugins"
_HERE = Path(__file__).parent
_USUAL_FOLDER = Path("/usr/local/cuda/bin")
_FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-lineinfo", "-Xcompiler=-fPIC,-Wall,-Wextra")


def find_program(name: str) -> Path | None:
    """A program of the CUDA toolkit: on the PATH, below CUDA_HOME, or in its usual place."""
    home = os.environ.get("CUDA_HOME")
    folders = [Path(home, "bin")] if home else []
    candidates = [shutil.which(name), *(folder / name for folder in (*folders, _USUAL_FOLDER))]
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
    """The line that builds the shared library.

    Args:
        nvcc: the compiler.
        architecture: the card's, such as "sm_90".
        target: the library.
    """
    sources = [_HERE / "device_calls.cc", _HERE / "empty_kernel.cu", *kernel_sources()]
    return [
        str(nvcc),
        *_FLAGS,
        "-shared",
        f"-arch={architecture}",
        "-I",
        str(PLUGINS),
        *map(str, sources),
        "-o",
        str(target),
    ]


def checker_command(nvcc: Path, architecture: str, target: Path) -> list[str]:
    """The line that builds the program that compute-sanitizer watches; arguments as of `library_command`."""
    core = [PLUGINS / "core" / name for name in ("routing.cc", "workspace.cc")]
    sources = [_HERE / "kernel_check.cc", _HERE / "planted_faults.cu", *core, *kernel_sources()]
    return [str(nvcc), *_FLAGS, f"-arch={architecture}", "-I", str(PLUGINS), *map(str, sources), "-o", str(target)]


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


class DeviceError(BenchmarkError):
    """CUDA refused a call. Carries what was called and CUDA's own words."""


class _CShape(ctypes.Structure):
    _fields_ = (
        ("groups", ctypes.c_size_t),
        ("tokens", ctypes.c_size_t),
        ("experts", ctypes.c_size_t),
        ("choices", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("batch_priority", ctypes.c_int32),
    )


def _c_shape(shape: Shape) -> Any:
    sizes = shape.groups, shape.tokens, shape.experts, shape.choices, shape.capacity
    return ctypes.byref(_CShape(*sizes, int(shape.bpr)))


_P, _N, _I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "error_text": (ctypes.c_char_p, (ctypes.c_int,)),
    "routing_refusal": (ctypes.c_char_p, (_P,)),
    "route_workspace_bytes": (_N, (_P,)),
    "route_dispatch_workspace_bytes": (_N, (_P,)),
    "route": (ctypes.c_int, (_P, _I, _P, _P, _P, _P, _P, _P)),
    "dispatch": (ctypes.c_int, (_P, _N, _P, _N, _N, _P, _P)),
    "route_dispatch": (ctypes.c_int, (_P, _I, _P, _P, _N, _P, _P, _P, _P, _P)),
    "combine": (ctypes.c_int, (_I, _P, _N, _P, _I, _P, _N, _N, _N, _P, _P)),
    "empty": (ctypes.c_int, (_P,)),
    "begin_count": (ctypes.c_int, (_P,)),
    "end_count": (ctypes.c_int, (_P, _P)),
}
FUNCTIONS = tuple(f"vmoe_gpu_{name}" for name in _SIGNATURES)
"""What the library exports for these calls."""


def type_number(type: Type) -> int:
    """The number of an element type in the library."""
    return TYPES.index(type)


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

    def refusal(self, shape: Shape) -> str | None:
        """Why a routing can't be, or None."""
        text = self._calls["routing_refusal"](_c_shape(shape))
        return text.decode() if text else None

    def workspace_bytes(self, shape: Shape) -> int:
        """Bytes of workspace that serve `route` and `route_dispatch`."""
        names = ("route_workspace_bytes", "route_dispatch_workspace_bytes")
        return max(int(self._calls[name](_c_shape(shape))) for name in names)

    def route(self, shape: Shape, gates: int, slot: int, weight: int, src: int, workspace: int, stream: int) -> None:
        """VmoeRoute; gates and weight are of the shape's gate type."""
        type = type_number(shape.gate_type)
        self._call("route", _c_shape(shape), type, gates, slot, weight, src, workspace, stream)

    def dispatch(self, shape: Shape, x: int, src: int, buf: int, stream: int) -> None:
        """VmoeDispatch."""
        self._call("dispatch", x, shape.all_tokens, src, shape.places, shape.row_bytes, buf, stream)

    def route_dispatch(
        self, shape: Shape, gates: int, x: int, slot: int, weight: int, buf: int, workspace: int, stream: int
    ) -> None:
        """VmoeRouteDispatch."""
        type = type_number(shape.gate_type)
        arguments = gates, x, shape.row_bytes, slot, weight, buf, workspace, stream
        self._call("route_dispatch", _c_shape(shape), type, *arguments)

    def combine(self, shape: Shape, out: int, slot: int, weight: int, y: int, stream: int) -> None:
        """VmoeCombine."""
        types = type_number(shape.type), type_number(shape.gate_type)
        sizes = shape.all_tokens, shape.choices, shape.hidden
        self._call("combine", types[0], out, shape.places, slot, types[1], weight, *sizes, y, stream)

    def empty(self, stream: int) -> None:
        """A kernel that does nothing."""
        self._call("empty", stream)

    def begin_count(self, stream: int) -> None:
        """From here on what is put on the stream is counted instead of run."""
        self._call("begin_count", stream)

    def end_count(self, stream: int) -> int:
        """How many graph nodes were put on the stream since `begin_count`."""
        nodes = ctypes.c_size_t()
        self._call("end_count", stream, ctypes.byref(nodes))
        return nodes.value

    def _call(self, name: str, *arguments: Any) -> None:
        error = self._calls[name](*arguments)
        if error != 0:
            text = self._calls["error_text"](error).decode()
            raise DeviceError(f"{name}: CUDA says '{text}' (error {error})")
