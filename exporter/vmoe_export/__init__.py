"""Exports V-MoE checkpoints to bundles of ONNX graphs that run at the capacity you choose."""

__version__ = "0.1.0"

from vmoe_export.checkpoint import open_checkpoint
from vmoe_export.errors import CheckpointError, ConfigError, ExportError

__all__ = [
    "__version__","CheckpointError", "ConfigError", "ExportError", "open_checkpoint"]
