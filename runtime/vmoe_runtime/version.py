"""The version of this installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


__version__ = installed_version("vmoe-export") or "0+unknown"
"""Of the distribution; "0+unknown" where the sources are used without being installed."""
