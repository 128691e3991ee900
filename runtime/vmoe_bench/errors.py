"""The errors that vmoe_bench raises. Each carries one sentence for the person at the keyboard."""

from __future__ import annotations


class BenchError(Exception):
    """Something that was asked for can't be measured or written."""


class UsageError(BenchError):
    """The command line itself is wrong."""
