"""The errors that vmoe_build raises. Each carries one sentence for the person at the keyboard."""

from __future__ import annotations


class BuildError(Exception):
    """An engine that can't be built, or that doesn't answer as its bundle does."""


class UsageError(BuildError):
    """The command line itself is wrong."""
