"""Exports V-MoE checkpoints to bundles of ONNX graphs that run at the capacity you choose."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmoe_export.checkpoint import open_checkpoint
    from vmoe_export.errors import CheckpointError, ConfigError, ExportError, OptionError
    from vmoe_export.export import ExportResult, export_bundle
    from vmoe_export.export_options import ExportOptions

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "OptionError",
    "__version__",
    "export_bundle",
    "open_checkpoint",
]

_HOMES = {
    "open_checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ExportError": "errors",
    "OptionError": "errors",
    "ExportOptions": "export_options",
    "ExportResult": "export",
    "export_bundle": "export",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the command can say in one sentence which packages are missing where only the runtime is installed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
