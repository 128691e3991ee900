"""Runs vmoe bundles: V-MoE models at the capacity you choose. Needs numpy and one backend."""

from vmoe_runtime.engine import Engine
from vmoe_runtime.errors import BackendError, BundleError, ClassifyError, ImageError, RoutingError, VmoeError
from vmoe_runtime.installation import __version__
from vmoe_runtime.op_library import library_path
from vmoe_runtime.profiles import Setting
from vmoe_runtime.routing import Routing
from vmoe_runtime.telemetry import silence_onnxruntime

silence_onnxruntime()

__all__ = [
    "BackendError",
    "BundleError",
    "ClassifyError",
    "Engine",
    "ImageError",
    "Routing",
    "RoutingError",
    "Setting",
    "VmoeError",
    "__version__",
    "library_path",
]
