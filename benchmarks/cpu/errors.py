"""What goes wrong with a benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Something can't be measured. Carries one sentence for the person who asked for it."""
