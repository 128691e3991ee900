"""Runs vmoe bundles: V-MoE models at the capacity you choose. Needs numpy and one backend."""

from vmoe_runtime.engine import Engine, Routing
from vmoe_runtime.errors import BackendError, BundleError, ImageError, RoutingError, VmoeError
from vmoe_runtime.op_library import library_path

__all__ = [
    "BackendError",
    "BundleError",
    "Engine",
    "ImageError",
    "Routing",
    "RoutingError",
    "VmoeError",
    "library_path",
]
