"""The errors that vmoe_runtime raises. Each carries one sentence for the person who made the call."""

from __future__ import annotations

from vmoe_runtime.addresses import without_secrets


class VmoeError(Exception):
    """Base of every error that vmoe_runtime and vmoe_export raise on purpose. What it says has no secrets of addresses."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class BundleError(VmoeError):
    """A bundle is missing, damaged, changed after export, or of a format this version can't read."""


class ChangedError(BundleError):
    """A bundle was written to, renamed or replaced while it was being loaded."""


class UsageError(VmoeError, ValueError):
    """A wrong value for an argument or an option."""


class RoutingError(UsageError):
    """A profile, capacity ratio or k that the model can't be run with."""


class ImageError(VmoeError, ValueError):
    """Images of a shape, size, dtype or number that the model can't be run with."""


class ClassifyError(VmoeError, ValueError):
    """Classes that a bundle doesn't have: it outputs no logits, or their number is none."""


class ElasticError(VmoeError, ValueError):
    """Levels or a latency target that no decision can keep to."""


class BackendError(VmoeError, RuntimeError):
    """A backend that is not installed, or that failed while it loaded or ran the model."""


class UnsuitedError(BackendError):
    """A backend that can't run this bundle exactly, where another one can."""


class UnavailableError(BackendError):
    """A backend whose package, driver, device or library this machine lacks."""


def shown(value: object, most: int = 40) -> str:
    """A value as it may stand in a sentence: on one line, not without end, and without a space where it is cut.

    Examples:
        >>> shown([1, 2, 3], 4)
        '[1,'
    """
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python writes, or whatever an object of others raises
        text = f"{type(value).__name__} that can't be shown"
    return " ".join(text.split())[:most].rstrip()
