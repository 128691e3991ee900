"""Exports V-MoE checkpoints to bundles of ONNX graphs that run at the capacity you choose."""

from vmoe_export.checkpoint import open_checkpoint
from vmoe_export.errors import CheckpointError, ConfigError, ExportError

__all__ = ["CheckpointError", "ConfigError", "ExportError", "open_checkpoint"]
