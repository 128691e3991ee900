"""The backends for ONNX Runtime's CUDA provider, and the checks that the needs of a provider are met.

A provider needs a driver, a GPU and libraries. One backend runs a graph for any profile. The other backend runs an
exported graph that is fixed to one profile.
"""

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
# TF32 has only ten mantissa bits. With TF32, the router would send some tokens to other experts than with float32.
ON_CUDA: Sequence[tuple[str, Mapping[str, str]]] = ((_CUDA, {"use_tf32": "0"}), (_CPU, {}))
RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"


def prepare_cuda(bundle: Bundle, profile: Profile | None, _: Parallelism, fixed_graph: str | None = None) -> PreparedBackend:
    """Prepare the canonical graph with the CUDA op library, or the inlined graph if the library is not installed.

    If `fixed_graph` is given, prepare the graph of that name, and neither the canonical nor the inlined graph.

    Raises:
        UnavailableError: the installed onnxruntime, the driver, the GPU or CUDA's libraries can't run the graph.
        UnsuitedError: the op library doesn't support the bundle's routing with the profile's settings.
    """
    check_routing(bundle, profile)
    gpu = require_provider(_CUDA, "cuda")
    # A dense ViT uses none of the library's kernels, so the kernels need not run on this GPU.
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
    """Prepare the graph that is fixed to a profile. It runs in the precision that it was exported in.

    If that precision is float16, tensor cores compute the matrix products.

    Raises:
        BackendError: the bundle has no such graph.
        UnavailableError, UnsuitedError: as for `prepare_cuda`.
    """
    return prepare_cuda(bundle, profile, cpu, tensorrt_graph_name(bundle, profile))


def require_provider(provider: str, library: str) -> Gpu:
    """Check that everything `provider` needs is available, and return the GPU.

    If something is missing, ONNX Runtime prints an error in red and continues without the provider. So this function checks
    before ONNX Runtime tries to load the provider.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or a library can't run the provider.
    """
    if not has_driver():
        find_gpu()  # raises, with the reason
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
    """Return the reason why a provider's library can't be loaded, or None if it can be loaded.

    The provider's library itself is not loaded here: if it were loaded before ONNX Runtime loads it, the process would end.
    This function loads only the libraries that it depends on and that `ldd` doesn't find.
    """
    try:
        listed = subprocess.run(["ldd", provider], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None  # without ldd, ONNX Runtime will report what is missing
    needed = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
    if needed:
        with contextlib.redirect_stdout(io.StringIO()):  # preload_dlls prints the names of libraries that it can't find
            onnxruntime.preload_dlls()  # loads libraries from the packages that the extras cuda and cudnn install
        with contextlib.suppress(Exception):
            import tensorrt  # noqa: F401  (only this import finds TensorRT's libraries)
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
