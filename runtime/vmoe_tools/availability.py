"""Whether a backend would run a bundle on this machine, without loading its graph and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmoe_runtime.backends import fastest_first, prepare_backend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError
from vmoe_runtime.profiles import Profile


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run a bundle, as far as that shows without loading it.

    Attributes:
        description: as `engine.backend_description` would be; None where it can't.
        error: why it can't; None where it can.
    """

    description: str | None
    error: BackendError | None = None


def availability(name: str, bundle: Bundle, profile: Profile | None) -> Availability:
    """Looks for everything that a backend needs.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: for a backend that is fixed to one; None for a model without profiles.
    """
    try:
        return Availability(prepare_backend(name, bundle, profile).description)
    except BackendError as error:
        return Availability(None, error)


def chosen_by_auto(found: Mapping[str, Availability]) -> str | None:
    """The backend that "auto" would take; None where it would fail.

    Args:
        found: the availability of each of BACKENDS.
    """
    for name in fastest_first():
        error = found[name].error
        if error is None:
            return name
        if not isinstance(error, UnavailableError | UnsuitedError):
            return None
    return None
