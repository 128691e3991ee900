"""The error that vmoe_build raises."""

from __future__ import annotations

from vmoe_runtime.command_line import CommandError


class BuildError(CommandError):
    """An engine that can't be built, or that doesn't answer as its bundle does."""
