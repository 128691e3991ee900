"""Export V-MoE checkpoints to bundles of ONNX graphs. A bundle runs at the capacity that its user chooses."""

from vmoe_export.errors import CheckpointError, ConfigError, ExportError, OptionError
from vmoe_export.export import ExportResult, export_bundle
from vmoe_export.opening import open_checkpoint
from vmoe_export.options.export_options import ExportOptions
from vmoe_export.zeroshot.head import export_zeroshot
from vmoe_runtime import __version__

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "OptionError",
    "__version__",
    "export_bundle",
    "export_zeroshot",
    "open_checkpoint",
]
