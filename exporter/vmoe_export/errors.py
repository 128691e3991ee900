"""The errors that vmoe_export raises. Each carries one sentence for the person who made the call."""

from __future__ import annotations

from vmoe_runtime.errors import VmoeError


class CheckpointError(VmoeError):
    """A checkpoint is missing, damaged, or of a format that can't be read."""


class ConfigError(VmoeError, ValueError):
    """A model description or setting that doesn't fit the checkpoint, or isn't supported."""


class ExportError(VmoeError):
    """The bundle could not be written, or did not pass validation."""
