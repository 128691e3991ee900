"""Whether a backend would run a bundle on this machine, without loading its graph and its weights."""

from __future__ import annotations

from collections.abc import Mapping

from vmoe_runtime.backends import fastest_first, prepare_backend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError
from vmoe_runtime.profiles import Profile


def availability(name: str, bundle: Bundle, profile: Profile | None) -> str | BackendError:
    """Looks for everything that a backend needs.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: for a backend that is fixed to one; None for a model without profiles.

    Returns:
        Its description, as `engine.backend_description` would be; why it can't run the bundle, as far as that shows.
    """
    try:
        return prepare_backend(name, bundle, profile).description
    except BackendError as error:
        return error


def chosen_by_auto(found: Mapping[str, str | BackendError]) -> str | None:
    """The backend that "auto" would take; None where it would fail.

    Args:
        found: the availability of each of BACKENDS.
    """
    for name in fastest_first():
        if not isinstance(found[name], UnavailableError | UnsuitedError):
            return None if isinstance(found[name], BackendError) else name
    return None
