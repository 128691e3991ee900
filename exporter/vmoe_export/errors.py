"""The errors that vmoe_export raises. Each carries one sentence for the person who made the call."""

from __future__ import annotations

from vmoe_runtime.errors import UsageError, VmoeError


class CheckpointError(VmoeError):
    """A checkpoint is missing, damaged, or of a format that can't be read."""


class ConfigError(VmoeError, ValueError):
    """A model description that contradicts the checkpoint, or a kind of model that isn't supported."""


class OptionError(UsageError):
    """An option whose value can't be, or doesn't fit the model."""


class ExportError(VmoeError):
    """The bundle could not be written, or did not pass validation."""
