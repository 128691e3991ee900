"""ONNX Runtime on an NVIDIA GPU: its CUDA provider on any profile, and its TensorRT provider on an exported one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime

from vmoe_runtime import op_library
from vmoe_runtime.backends.nvidia_gpu import Gpu, find_gpu
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend, describe
from vmoe_runtime.backends.tensorrt_graph import tensorrt_graph
from vmoe_runtime.bundle import Bundle
from vmoe_runtime.engine_cache import private_folder
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.installation import (
    CUDA_OP_LIBRARY,
    TENSORRT_PLUGIN,
    TENSORRT_REGISTER,
    NotInstalledError,
    find_native,
    native_path,
)
from vmoe_runtime.manifest import CANONICAL_GRAPH, INLINED_GRAPH
from vmoe_runtime.profiles import Profile
from vmoe_runtime.shared_objects import needed_libraries

_CUDA, _TENSORRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
_FLOAT32 = {"use_tf32": "0"}  # TF32 has ten bits of mantissa, and the router would send tokens elsewhere


def cuda_backend(bundle: Bundle) -> OnnxRuntimeBackend:
    """The canonical graph with the CUDA op library, or the inlined one where this installation has none.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or CUDA's libraries don't allow it.
        BackendError: ONNX Runtime can't load the graph.
    """
    library, place = _cuda_needs()
    return OnnxRuntimeBackend(
        bundle.graph(INLINED_GRAPH if library is None else CANONICAL_GRAPH),
        library=library,
        providers=[(_CUDA, _FLOAT32), (_CPU, {})],
        place=place,
    )


def check_cuda() -> str:
    """The description of the backend that a bundle would get here, without loading it; raises as `cuda_backend` does."""
    return describe(_cuda_needs()[1])


def _cuda_needs() -> tuple[Path | None, str]:
    """The op library, if there is one, and what a session runs on, in words."""
    gpu = _require(_CUDA, "cuda")
    library = find_native("lib", CUDA_OP_LIBRARY)
    ops = "standard ops" if library is None else "vmoe CUDA op library"
    return library, f"CUDA on {gpu.name}, {ops}"


def tensorrt_backend(bundle: Bundle, profile: Profile | None) -> OnnxRuntimeBackend:
    """The graph that is fixed to a profile, as a TensorRT engine that ONNX Runtime builds, and keeps in the cache folder.

    Turns TF32 off for the whole process, unless NVIDIA_TF32_OVERRIDE is set.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU, TensorRT or the plugin don't allow it.
        BackendError: the bundle has no such graph, or ONNX Runtime can't load it.
    """
    graph = tensorrt_graph(bundle, profile)
    plugin, library, place = _tensorrt_needs(profile)
    # The provider has no option for it, and libraries read the variable when they are first used.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # It tells graphs that were not read from a file apart by little more than the names in them.
    cache = str(private_folder("onnxruntime", onnxruntime.__version__, bundle.identity[:32], graph))
    options = {
        "trt_extra_plugin_lib_paths": str(plugin),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
    }
    return OnnxRuntimeBackend(
        bundle.graph(graph),
        library=library,
        providers=[(_TENSORRT, options), (_CUDA, _FLOAT32), (_CPU, {})],
        place=place,
        profile=profile,
    )


def check_tensorrt(bundle: Bundle, profile: Profile | None) -> str:
    """The description of the backend that a bundle would get here, without loading it; raises as `tensorrt_backend` does."""
    tensorrt_graph(bundle, profile)
    return describe(_tensorrt_needs(profile)[2])


def _tensorrt_needs(profile: Profile | None) -> tuple[Path, Path | None, str]:
    """The plugin, the op library, and what a session runs on, in words."""
    gpu = _require(_TENSORRT, "tensorrt")
    try:
        plugin = native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER)
    except NotInstalledError as error:
        raise UnavailableError(str(error)) from None
    # The TensorRT provider checks the nodes in a model without functions, so their ops must be known some other way.
    library = find_native("lib", CUDA_OP_LIBRARY) or op_library.find_library()
    if library is None and profile is not None:
        raise UnavailableError("ONNX Runtime's TensorRT provider needs an op library, and this installation has none")
    return plugin, library, f"TensorRT on {gpu.name}, vmoe plugin"


def _require(provider: str, library: str) -> Gpu:
    """The GPU, once everything that the provider needs was found.

    ONNX Runtime prints what is missing in red and goes on without the provider, so all of it is looked for first.
    """
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    if provider not in onnxruntime.get_available_providers():
        raise UnavailableError(
            f"the installed {runtime} has no {provider}; run pip uninstall onnxruntime, then pip install 'vmoe-export[gpu]'"
        )
    gpu = find_gpu()
    needed = _built_for_cuda()
    if needed is not None and gpu.cuda[0] < needed:
        raise UnavailableError(
            f"{runtime} needs a driver for CUDA {needed}, and the one on this machine is for CUDA "
            f"{'.'.join(map(str, gpu.cuda))}; update the driver"
        )
    file = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{library}.so"
    missing = missing_library(file)
    if missing is not None:
        raise UnavailableError(f"{runtime} can't use its {provider}: {missing}")
    return gpu


def _built_for_cuda() -> int | None:
    """The major version of CUDA that this onnxruntime was built for, where it says so."""
    try:
        from onnxruntime.capi.build_and_package_info import cuda_version
    except ImportError:
        return None
    major = str(cuda_version).partition(".")[0]
    return int(major) if major.isdecimal() else None


def missing_library(provider: Path) -> str | None:
    """What keeps a provider's library from being loaded, in words; None where nothing does.

    Loading it before ONNX Runtime does would end the process, so what it needs is loaded instead.
    """
    if _first_missing(provider) is None:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it can't find
        onnxruntime.preload_dlls()  # from the packages that the extras cuda and cudnn install
    with contextlib.suppress(Exception):
        import tensorrt  # noqa: F401  (its libraries lie where only this finds them)
    missing = _first_missing(provider)
    if missing is None:
        return None
    if missing.startswith(("libnvinfer", "libnvonnxparser")):
        major = missing.rpartition(".")[2]
        return (
            f"it needs TensorRT {major} ({missing}), and {_installed_tensorrt()}; run pip install 'tensorrt=={major}.*', or "
            "take backend 'tensorrt', which runs with any TensorRT from 10.7 on"
        )
    return f"{missing} can't be loaded; run pip install 'vmoe-export[gpu]', which brings CUDA's libraries and cuDNN"


def _first_missing(library: Path) -> str | None:
    for name in needed_libraries(library):
        try:
            ctypes.CDLL(name)
        except OSError:
            return name
    return None


def _installed_tensorrt() -> str:
    try:
        return f"pip's is {version('tensorrt')}"
    except PackageNotFoundError:
        return "none is installed"
