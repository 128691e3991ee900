"""ONNX Runtime on an NVIDIA GPU: its CUDA provider on any profile or an exported one, and what its providers need."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import onnxruntime

from vmoe_runtime.backends import Backend, Parallelism, PreparedBackend
from vmoe_runtime.backends.cuda_library import find_cuda_library, usable_cuda_library
from vmoe_runtime.backends.cuda_routing import check_routing, check_settings
from vmoe_runtime.backends.merging import StandardBackend
from vmoe_runtime.backends.nvidia_gpu import Gpu, find_gpu, has_driver
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH
from vmoe_runtime.bundle.reader import Bundle, BundleGraph
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.installation import oldest_supported
from vmoe_runtime.profiles import Profile

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# TF32 has ten bits of mantissa, and the router would send tokens elsewhere.
ON_CUDA: Sequence[tuple[str, Mapping[str, str]]] = ((_CUDA, {"use_tf32": "0"}), (_CPU, {}))
RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"


def prepare_cuda(bundle: Bundle, profile: Profile | None, _: Parallelism, fixed_graph: str | None = None) -> PreparedBackend:
    """The canonical graph with the CUDA op library, or the inlined one where this installation has none; or another graph.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or CUDA's libraries don't allow it.
        UnsuitedError: the op library can't route the bundle at the profile.
    """
    check_routing(bundle, profile)
    gpu = require_provider(_CUDA, "cuda")
    # A dense ViT uses none of its kernels.
    library = usable_cuda_library(gpu, "CUDA op library") if bundle.manifest.moe_layers else find_cuda_library()
    graph = fixed_graph or (None if library is None else CANONICAL_GRAPH)
    precision = f", {exported_graphs(bundle).precision}" if fixed_graph else ""
    ops = "standard ops" if library is None else "vmoe CUDA op library"
    description = f"{RUNTIME} CUDA on {gpu.name}{precision}, {ops}"

    def load_graph(graph: BundleGraph) -> Backend:
        return OnnxRuntimeBackend(
            graph,
            library=library,
            providers=ON_CUDA,
            description=description,
            check=lambda feeds: None if library is None else check_settings(bundle.manifest, feeds),
        )

    load = partial(StandardBackend, bundle, load_graph) if graph is None else lambda: load_graph(bundle.graph(graph))
    return PreparedBackend(description, load, (library, graph))


def prepare_fixed_cuda(bundle: Bundle, profile: Profile | None, cpu: Parallelism) -> PreparedBackend:
    """The graph that is fixed to a profile, in the type that it was exported in: float16 is what tensor cores multiply.

    Raises:
        As `prepare_cuda`; BackendError: the bundle has no such graph.
    """
    return prepare_cuda(bundle, profile, cpu, tensorrt_graph_name(bundle, profile))


def require_provider(provider: str, library: str) -> Gpu:
    """The GPU, once everything that the provider needs was found.

    ONNX Runtime prints what is missing in red and goes on without the provider, so all of it is looked for first.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or a library doesn't allow it.
    """
    if not has_driver():
        find_gpu()  # says why
    if provider not in onnxruntime.get_available_providers():
        raise UnavailableError(
            f"the installed {RUNTIME} has no {provider}; run pip uninstall onnxruntime, then pip install 'vmoe-export[gpu]'"
        )
    gpu = find_gpu()
    built_for = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    if built_for.isdecimal():
        gpu.check_driver(RUNTIME, (int(built_for),))
    missing = missing_library(Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{library}.so")
    if missing is not None:
        raise UnavailableError(f"{RUNTIME} can't use its {provider}: {missing}")
    return gpu


def missing_library(provider: Path) -> str | None:
    """What keeps a provider's library from being loaded, in words; None where nothing does.

    Loading it before ONNX Runtime does would end the process, so `ldd` says what it needs, and that is loaded instead.
    """
    try:
        listed = subprocess.run(["ldd", provider], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None  # ONNX Runtime will say so
    needed = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
    if needed:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it can't find
            onnxruntime.preload_dlls()  # from the packages that the extras cuda and cudnn install
        with contextlib.suppress(Exception):
            import tensorrt  # noqa: F401  (its libraries lie where only this finds them)
    for name in needed:
        try:
            ctypes.CDLL(name)
        except OSError:
            if not name.startswith(("libnvinfer", "libnvonnxparser")):
                return f"{name} can't be loaded; run pip install 'vmoe-export[gpu]', which brings CUDA's libraries and cuDNN"
            major = name.rpartition(".")[2]
            return (
                f"it needs TensorRT {major} ({name}); run pip install 'tensorrt=={major}.*', or take backend 'tensorrt', "
                f"which runs with any TensorRT from {oldest_supported('tensorrt')} on"
            )
    return None
