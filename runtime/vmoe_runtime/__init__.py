"""The runtime for vmoe bundles. It runs V-MoE models at the capacity that the caller chooses.

It needs numpy and one backend.
"""

import os

from vmoe_runtime.engine import Cascade, Engine
from vmoe_runtime.errors import (
    BackendError,
    BundleError,
    ClassifyError,
    ElasticError,
    ImageError,
    RoutingError,
    UsageError,
    VmoeError,
)
from vmoe_runtime.installation import __version__
from vmoe_runtime.op_library import library_path
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Routing
from vmoe_runtime.settings import Setting

# ONNX Runtime reads this variable when it is imported. If telemetry is enabled, ONNX Runtime 1.29 and later looks up a
# host and writes files. In addition, a process that is forked after the import never ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BackendError",
    "BundleError",
    "Cascade",
    "ClassifyError",
    "ElasticError",
    "Engine",
    "ImageError",
    "Profile",
    "Routing",
    "RoutingError",
    "Setting",
    "UsageError",
    "VmoeError",
    "__version__",
    "library_path",
]
