"""ONNX Runtime on an NVIDIA GPU: its CUDA provider on any profile or an exported one, its TensorRT provider on those."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vmoe_runtime import op_library
from vmoe_runtime.backends.batch_range import VARIABLE, range_from_environment
from vmoe_runtime.backends.cuda_library import check_plugin, find_cuda_library, usable_cuda_library
from vmoe_runtime.backends.cuda_routing import check_settings
from vmoe_runtime.backends.nvidia_gpu import Gpu, find_gpu
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend, describe_place
from vmoe_runtime.backends.tensorrt.engine_cache import digest_of, private_folder
from vmoe_runtime.backends.tensorrt.tensorrt_graph import cuda_graph_name, exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT, INLINED_GRAPH
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import ImageError, UnavailableError
from vmoe_runtime.installation import TENSORRT_PLUGIN, TENSORRT_REGISTER, NotInstalledError, __version__, native_path
from vmoe_runtime.profiles import Profile
from vmoe_runtime.shared_objects import needed_libraries

Array = np.ndarray[Any, np.dtype[Any]]

_CUDA, _TENSORRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
# TF32 has ten bits of mantissa, and the router would send tokens elsewhere.
_ON_CUDA: Sequence[tuple[str, Mapping[str, str]]] = ((_CUDA, {"use_tf32": "0"}), (_CPU, {}))


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
        providers=_ON_CUDA,
        place=place,
        check=lambda feeds: None if library is None else check_settings(bundle.manifest, feeds),
    )


def check_cuda() -> str:
    """The description of the backend that a bundle would get here, without loading it; raises as `cuda_backend` does."""
    return describe_place(_cuda_needs()[1])


def fixed_cuda_backend(bundle: Bundle, profile: Profile | None) -> OnnxRuntimeBackend:
    """The graph that is fixed to a profile, in the type that it was exported in: float16 is what tensor cores multiply.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or CUDA's libraries don't allow it.
        BackendError: the bundle has no such graph, or ONNX Runtime can't load it.
    """
    graph = cuda_graph_name(bundle, profile)
    library, place = _cuda_needs(exported_graphs(bundle).precision)
    return OnnxRuntimeBackend(bundle.graph(graph), library=library, providers=_ON_CUDA, place=place, profile=profile)


def check_fixed_cuda(bundle: Bundle) -> str:
    """The description of the backend that a bundle would get here; raises as `fixed_cuda_backend`, but for its graphs."""
    return describe_place(_cuda_needs(exported_graphs(bundle).precision)[1])


def _cuda_needs(precision: str | None = None) -> tuple[Path | None, str]:
    """The op library, if there is one, and what a session runs on, in words."""
    gpu = _require(_CUDA, "cuda")
    library = usable_cuda_library(gpu)
    ops = "standard ops" if library is None else "vmoe CUDA op library"
    return library, ", ".join(filter(None, (f"CUDA on {gpu.name}", precision, ops)))


def tensorrt_backend(bundle: Bundle, profile: Profile | None) -> OnnxRuntimeBackend:
    """The graph that is fixed to a profile, as a TensorRT engine that ONNX Runtime builds, and keeps in the cache folder.

    Turns TF32 off for the whole process, unless NVIDIA_TF32_OVERRIDE is set.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU, TensorRT or the plugin don't allow it.
        BackendError: the bundle has no such graph, or ONNX Runtime can't load it.
    """
    graph = tensorrt_graph_name(bundle, profile)
    plugin, library, place = _tensorrt_needs(profile)
    batches = range_from_environment(bundle.manifest)
    # The provider has no option for it, and libraries read the variable when they are first used.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

    def check_batch(feeds: Mapping[str, Array]) -> None:
        images = len(feeds[IMAGE_INPUT])
        if not batches.smallest <= images <= batches.largest:
            raise ImageError(
                f"the engine was built for {batches.smallest} to {batches.largest} images, and the batch has {images}; set "
                f"{VARIABLE}={images} before the engine is loaded"
            )

    # It tells graphs that were not read from a file apart by little more than the names in them, and knows no plugins.
    plugin_bytes = plugin.with_name(TENSORRT_PLUGIN).read_bytes()
    made_of = [
        onnxruntime.__version__,
        __version__,
        sha256(plugin_bytes).hexdigest(),
        bundle.identity,
        graph,
        batches.largest,
    ]
    cache = str(private_folder("onnxruntime", digest_of(made_of)))
    # Without shapes it builds the engine in the first call, and again in each call of a size that it hasn't seen.
    shapes = zip(("min", "opt", "max"), batches.shapes(bundle.manifest), strict=True)
    options = {
        "trt_extra_plugin_lib_paths": str(plugin),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        **{f"trt_profile_{which}_shapes": f"{IMAGE_INPUT}:{'x'.join(map(str, shape))}" for which, shape in shapes},
    }
    return OnnxRuntimeBackend(
        bundle.graph(graph),
        library=library,
        providers=[(_TENSORRT, options), *_ON_CUDA],
        place=f"{place}, batches of {batches.smallest} to {batches.largest}",
        profile=profile,
        check=check_batch,
    )


def check_tensorrt(profile: Profile | None) -> str:
    """The description of the backend that a bundle would get here; raises as `tensorrt_backend` does, but for its graphs."""
    return describe_place(_tensorrt_needs(profile)[2])


def _tensorrt_needs(profile: Profile | None) -> tuple[Path, Path | None, str]:
    """The library that registers the plugin, the op library, and what a session runs on, in words."""
    gpu = _require(_TENSORRT, "tensorrt")
    try:
        plugin = native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER)
    except NotInstalledError as error:
        raise UnavailableError(str(error)) from None
    if profile is not None:
        check_plugin(gpu)
    # The TensorRT provider checks the nodes in a model without functions, so their ops must be known some other way.
    library = find_cuda_library() or op_library.find_library()
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
    with contextlib.suppress(ImportError, ValueError):
        from onnxruntime.capi.build_and_package_info import cuda_version

        return int(str(cuda_version).partition(".")[0])
    return None


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
            f"it needs TensorRT {major} ({missing}); run pip install 'tensorrt=={major}.*', or take backend 'tensorrt', "
            "which runs with any TensorRT from 10.13 on"
        )
    return f"{missing} can't be loaded; run pip install 'vmoe-export[gpu]', which brings CUDA's libraries and cuDNN"


def _first_missing(library: Path) -> str | None:
    for name in needed_libraries(library):
        try:
            ctypes.CDLL(name)
        except OSError:
            return name
    return None
