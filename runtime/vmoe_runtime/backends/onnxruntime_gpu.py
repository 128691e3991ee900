"""ONNX Runtime on an NVIDIA GPU: its CUDA provider on any profile or an exported one, its TensorRT provider on those."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import onnxruntime

from vmoe_runtime import op_library
from vmoe_runtime.backends import Array, Backend, Parallelism, PreparedBackend
from vmoe_runtime.backends.batch_range import VARIABLE, range_from_environment
from vmoe_runtime.backends.cuda_library import find_cuda_library, usable_cuda_library
from vmoe_runtime.backends.cuda_routing import check_routing, check_settings
from vmoe_runtime.backends.merging import StandardBackend
from vmoe_runtime.backends.nvidia_gpu import Gpu, find_gpu, has_driver
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.tensorrt.engine_cache import digest_of, private_folder
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT
from vmoe_runtime.bundle.reader import Bundle, BundleGraph
from vmoe_runtime.errors import ImageError, UnavailableError
from vmoe_runtime.installation import TENSORRT_PLUGIN, TENSORRT_REGISTER, __version__, native_path, oldest_supported
from vmoe_runtime.profiles import Profile

_CUDA, _TENSORRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
# TF32 has ten bits of mantissa, and the router would send tokens elsewhere.
_ON_CUDA: Sequence[tuple[str, Mapping[str, str]]] = ((_CUDA, {"use_tf32": "0"}), (_CPU, {}))
_RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"


def prepare_cuda(bundle: Bundle, profile: Profile | None, _: Parallelism, fixed_graph: str | None = None) -> PreparedBackend:
    """The canonical graph with the CUDA op library, or the inlined one where this installation has none; or another graph.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU or CUDA's libraries don't allow it.
        UnsuitedError: the op library can't route the bundle at the profile.
    """
    check_routing(bundle, profile)
    gpu = _require(_CUDA, "cuda")
    # A dense ViT uses none of its kernels.
    library = usable_cuda_library(gpu, "CUDA op library") if bundle.manifest.moe_layers else find_cuda_library()
    graph = fixed_graph or (None if library is None else CANONICAL_GRAPH)
    precision = f", {exported_graphs(bundle).precision}" if fixed_graph else ""
    ops = "standard ops" if library is None else "vmoe CUDA op library"
    description = f"{_RUNTIME} CUDA on {gpu.name}{precision}, {ops}"

    def load_graph(graph: BundleGraph) -> Backend:
        return OnnxRuntimeBackend(
            graph,
            library=library,
            providers=_ON_CUDA,
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


def prepare_tensorrt(bundle: Bundle, profile: Profile | None, _: Parallelism) -> PreparedBackend:
    """The graph that is fixed to a profile, as a TensorRT engine that ONNX Runtime builds, and keeps in the cache folder.

    Loading turns TF32 off for the whole process, unless NVIDIA_TF32_OVERRIDE is set.

    Raises:
        UnavailableError: this onnxruntime, the driver, the GPU, TensorRT or the plugin don't allow it.
        BackendError: the bundle has no such graph, or VMOE_MAX_BATCH is no number of images.
    """
    graph = tensorrt_graph_name(bundle, profile)
    gpu = _require(_TENSORRT, "tensorrt")
    ops, plugin_hash, plugin_options = "", "", dict[str, str]()  # standard ops alone need no plugin
    if bundle.manifest.moe_layers:
        plugin = native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER)
        usable_cuda_library(gpu, "TensorRT plugin")
        plugin_hash = sha256(plugin.with_name(TENSORRT_PLUGIN).read_bytes()).hexdigest()
        ops, plugin_options = ", vmoe plugin", {"trt_extra_plugin_lib_paths": str(plugin)}
    # The TensorRT provider checks the nodes in a model without functions, so their ops must be known some other way.
    library = find_cuda_library() or op_library.find_library()
    if library is None and bundle.manifest.moe_layers:
        raise UnavailableError("ONNX Runtime's TensorRT provider needs an op library, and this installation has none")
    batches = range_from_environment(bundle.manifest)
    description = f"{_RUNTIME} TensorRT on {gpu.name}{ops}, batches of {batches.smallest} to {batches.largest}"
    # The provider tells graphs that were not read from a file apart by little more than their names, and knows no plugins.
    versions = [onnxruntime.__version__, __version__, plugin_hash]
    digest = digest_of([*versions, bundle.identity, graph, batches.largest])

    def check_batch(feeds: Mapping[str, Array]) -> None:
        images = len(feeds[IMAGE_INPUT])
        if not batches.smallest <= images <= batches.largest:
            raise ImageError(
                f"the engine was built for {batches.smallest} to {batches.largest} images, and the batch has {images}; set "
                f"{VARIABLE}={images} before the engine is loaded"
            )

    def load() -> OnnxRuntimeBackend:
        # The provider has no option for it, and libraries read the variable when they are first used.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        cache = str(private_folder("onnxruntime", digest))
        # Without shapes it builds the engine in the first call, and again in each call of a size that it hasn't seen.
        shapes = zip(("min", "opt", "max"), batches.shapes(bundle.manifest), strict=True)
        options = {
            **plugin_options,
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
            description=description,
            check=check_batch,
        )

    return PreparedBackend(description, load, (library, digest))


def _require(provider: str, library: str) -> Gpu:
    """The GPU, once everything that the provider needs was found.

    ONNX Runtime prints what is missing in red and goes on without the provider, so all of it is looked for first.
    """
    if not has_driver():
        find_gpu()  # says why
    if provider not in onnxruntime.get_available_providers():
        raise UnavailableError(
            f"the installed {_RUNTIME} has no {provider}; run pip uninstall onnxruntime, then pip install 'vmoe-export[gpu]'"
        )
    gpu = find_gpu()
    built_for = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    if built_for.isdecimal():
        gpu.check_driver(_RUNTIME, (int(built_for),))
    missing = missing_library(Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{library}.so")
    if missing is not None:
        raise UnavailableError(f"{_RUNTIME} can't use its {provider}: {missing}")
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
