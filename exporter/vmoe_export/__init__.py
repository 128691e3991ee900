"""Exports V-MoE checkpoints to bundles of ONNX graphs that run at the capacity you choose."""

__version__ = "0.1.0"

from vmoe_export.checkpoint import open_checkpoint
from vmoe_export.errors import CheckpointError, ConfigError, ExportError
from vmoe_export.export import ExportOptions, ExportResult, export_bundle

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "__version__",
    "export_bundle",
    "open_checkpoint",
]
