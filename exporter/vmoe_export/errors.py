"""Errors that vmoe_export raises. Their messages are meant for users."""

from __future__ import annotations

from vmoe_runtime.errors import UsageError, VmoeError


class CheckpointError(VmoeError):
    """A checkpoint is missing, damaged, or has an unknown format."""


class ConfigError(VmoeError, ValueError):
    """A model config contradicts the checkpoint, or describes an unsupported kind of model."""


class OptionError(UsageError):
    """An option has an invalid value, or one that does not fit the model."""


class ExportError(VmoeError):
    """The bundle could not be written, or failed validation."""
