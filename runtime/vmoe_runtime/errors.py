"""The errors that vmoe_runtime raises. Each error has a message for the caller."""

from __future__ import annotations

from vmoe_runtime.addresses import without_secrets


class VmoeError(Exception):
    """Base class of all errors that vmoe_runtime and vmoe_export raise on purpose.

    The message of each error hides secrets in URLs.
    """

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class BundleError(VmoeError):
    """A bundle is missing, damaged, changed after export, or has a format that this version can't read."""


class ChangedError(BundleError):
    """A bundle was written to, renamed or replaced while it was being loaded."""


class UsageError(VmoeError, ValueError):
    """An argument or an option has a wrong value."""


class RoutingError(UsageError):
    """The model can't be run with a profile, capacity ratio or k."""


class ImageError(VmoeError, ValueError):
    """The model can't be run with images of this shape, size, dtype or number."""


class ClassifyError(VmoeError, ValueError):
    """The bundle doesn't output logits, or the model can't return this number of classes."""


class ElasticError(VmoeError, ValueError):
    """Elastic capacity can't work with the given levels (settings with their call times) or latency target."""


class BackendError(VmoeError, RuntimeError):
    """A backend is not installed, or failed while it loaded or ran the model."""


class UnsuitedError(BackendError):
    """A backend can't run this bundle exactly, although another backend can."""


class UnavailableError(BackendError):
    """This machine lacks a backend's package, driver, device or library."""


def shown(value: object, most: int = 40) -> str:
    """Return a value as text for an error message.

    The text is on one line, has at most `most` characters, and doesn't end with a space.

    Examples:
        >>> shown([1, 2, 3], 4)
        '[1,'
    """
    try:
        text = repr(value)
    except Exception:  # for example, an int has too many digits for `repr`, or another library's `repr` raises an error
        text = f"{type(value).__name__} that can't be shown"
    return " ".join(text.split())[:most].rstrip()
