"""Refuses routing that the CUDA op library doesn't support.

The library's kernels refuse such routing too, but only during a call.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmoe_runtime.backends import Array
from vmoe_runtime.backends.cuda_library import find_cuda_library
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import RoutingError, UnsuitedError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import SettingValue

MOST_TOKENS, MOST_EXPERTS, MOST_CHOICES = 65_536, 256, 8  # as in plugins/cuda/limits.h
_INSTEAD = "take a backend for the CPU"


def check_routing(bundle: Bundle, profile: Profile | None) -> None:
    """Refuse a bundle or a profile that the CUDA op library doesn't support.

    Accept everything if the library is not installed, because standard ops support all routing.

    Raises:
        UnsuitedError: the bundle has too many tokens per group or too many experts, or the profile needs a feature that the
            op library lacks.
    """
    rules = bundle.manifest.rules
    if rules.kind != "top-k" or find_cuda_library() is None:
        return
    tokens, experts = rules.group_tokens, rules.num_experts // rules.ensemble_size
    if tokens > MOST_TOKENS or experts > MOST_EXPERTS:
        raise UnsuitedError(
            f"the CUDA op library routes groups of up to {MOST_TOKENS} tokens and {MOST_EXPERTS} experts, and this bundle's "
            f"have {tokens} and {experts}; {_INSTEAD}"
        )
    if profile is not None and (lacking := _lacking(rules, profile.values)):
        raise UnsuitedError(f"the CUDA op library has no {lacking}, and profile '{profile.name}' needs it; {_INSTEAD}")


def check_settings(manifest: Manifest, feeds: Mapping[str, Array]) -> None:
    """Refuse the settings of a call if the CUDA op library doesn't support them.

    Args:
        manifest: manifest of the bundle.
        feeds: input arrays for the graph, by input name.

    Raises:
        RoutingError: the settings need a feature that the op library lacks.
    """
    values = {name: int(feeds[name][0]) for name in manifest.rules.settings if name in feeds}
    if manifest.rules.kind == "top-k" and (lacking := _lacking(manifest.rules, values)):
        raise RoutingError(f"the CUDA op library has no {lacking}, which the call needs; {_INSTEAD}")


def _lacking(rules: RoutingRules, values: Mapping[str, SettingValue]) -> str | None:
    """Return the feature, in words, that `values` need but the op library lacks. Return None if no feature is missing."""
    if values.get("pool"):
        return "pool of slots"
    if values.get("max_experts", rules.num_experts) < rules.num_experts:
        return "limit of experts"
    if values.get("k", 1) > MOST_CHOICES:
        return f"k above {MOST_CHOICES}"
    return None
