"""The errors that vmoe_export raises. Each has one message for the caller."""

from __future__ import annotations

from vmoe_runtime.errors import UsageError, VmoeError


class CheckpointError(VmoeError):
    """A checkpoint is missing, damaged, or has an unknown format."""


class ConfigError(VmoeError, ValueError):
    """A model description contradicts the checkpoint, or the kind of model is not supported."""


class OptionError(UsageError):
    """An option has an invalid value, or one that does not fit the model."""


class ExportError(VmoeError):
    """The bundle could not be written, or failed validation."""
