"""The errors that vmoe_runtime raises. Each has a message for the person who made the call."""

from __future__ import annotations

from vmoe_runtime.addresses import without_secrets


class VmoeError(Exception):
    """Base of all errors that vmoe_runtime and vmoe_export raise on purpose. Its message hides the secrets of addresses."""

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
    """The bundle outputs no logits, or can't return this number of classes."""


class ElasticError(VmoeError, ValueError):
    """Levels or a latency target that elastic capacity can't work with."""


class BackendError(VmoeError, RuntimeError):
    """A backend that is not installed, or that failed while it loaded or ran the model."""


class UnsuitedError(BackendError):
    """A backend that can't run this bundle exactly, although another backend can."""


class UnavailableError(BackendError):
    """A backend whose package, driver, device or library this machine lacks."""


def shown(value: object, most: int = 40) -> str:
    """A value as text for a message: on one line, of at most `most` characters, without a space at the end.

    Examples:
        >>> shown([1, 2, 3], 4)
        '[1,'
    """
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python writes, or whatever an object of others raises
        text = f"{type(value).__name__} that can't be shown"
    return " ".join(text.split())[:most].rstrip()
