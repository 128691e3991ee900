"""The backend for ONNX Runtime's TensorRT provider on an NVIDIA GPU.

It runs a profile that was exported for TensorRT.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256

import onnxruntime

from vmoe_runtime import op_library
from vmoe_runtime.backends import Array, Parallelism, PreparedBackend
from vmoe_runtime.backends.batch_range import VARIABLE, range_from_environment
from vmoe_runtime.backends.cuda_library import find_cuda_library, usable_cuda_library
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.onnxruntime_cuda import ON_CUDA, RUNTIME, require_provider
from vmoe_runtime.backends.tensorrt.engine_cache import digest_of, private_folder
from vmoe_runtime.backends.tensorrt.tensorrt_graph import tensorrt_graph_name
from vmoe_runtime.bundle.manifest import IMAGE_INPUT
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import ImageError, UnavailableError
from vmoe_runtime.installation import TENSORRT_PLUGIN, TENSORRT_REGISTER, __version__, native_path
from vmoe_runtime.profiles import Profile

_PROVIDER = "TensorrtExecutionProvider"


def prepare(bundle: Bundle, profile: Profile | None, _: Parallelism) -> PreparedBackend:
    """Prepare the graph that is fixed to a profile.

    ONNX Runtime builds a TensorRT engine from the graph and stores it in the cache folder. When the backend loads the graph,
    it turns TF32 off for the whole process, unless the environment variable NVIDIA_TF32_OVERRIDE is set.

    Raises:
        UnavailableError: the installed onnxruntime, the driver, the GPU, TensorRT or the plugin can't run the graph.
        BackendError: the bundle has no such graph, or VMOE_MAX_BATCH is not a number of images.
    """
    graph = tensorrt_graph_name(bundle, profile)
    gpu = require_provider(_PROVIDER, "tensorrt")
    ops, plugin_hash, plugin_options = "", "", dict[str, str]()  # a model without MoE layers needs no plugin
    if bundle.manifest.moe_layers:
        plugin = native_path("TensorRT plugin", TENSORRT_PLUGIN, "lib", TENSORRT_REGISTER)
        usable_cuda_library(gpu, "TensorRT plugin")
        plugin_hash = sha256(plugin.with_name(TENSORRT_PLUGIN).read_bytes()).hexdigest()
        ops, plugin_options = ", vmoe plugin", {"trt_extra_plugin_lib_paths": str(plugin)}
    # The TensorRT provider checks the nodes in a copy of the model that lacks the model's functions. So an op library must
    # define the model's ops.
    library = find_cuda_library() or op_library.find_library()
    if library is None and bundle.manifest.moe_layers:
        raise UnavailableError("ONNX Runtime's TensorRT provider needs an op library, and this installation has none")
    batches = range_from_environment(bundle.manifest)
    description = f"{RUNTIME} TensorRT on {gpu.name}{ops}, batches of {batches.smallest} to {batches.largest}"
    # The provider gets the graph from memory, not from a file. So the provider's own cache key contains little more than
    # the graph's name, and never the plugin. For this reason, each combination of the values below gets its own cache
    # folder.
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
        # The provider has no option that turns TF32 off. CUDA's libraries read NVIDIA_TF32_OVERRIDE when they are first
        # used.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        cache = str(private_folder("onnxruntime", digest))
        # Without these shapes, the provider would build the engine during the first call, and again for each new batch
        # size.
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
            providers=[(_PROVIDER, options), *ON_CUDA],
            description=description,
            check=check_batch,
        )

    return PreparedBackend(description, load, (library, digest))
