"""Describe the MoE layers of a model by its tensors, config and flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.model.model_config import ROUTERS, ExpertsChoice, MoeConfig, RoutingConfig, Soft, TopK
from vmoe_export.model.model_facts import ModelFacts, mapping, number
from vmoe_runtime.capacity import DEFAULT_ROUNDING, ROUNDINGS, Rounding
from vmoe_runtime.profiles import by_layer
from vmoe_runtime.routing_kinds import RoutingKind

_DEFAULT_CAPACITY_RATIO = 1.05
_DEFAULT_EXPERTS_CHOICE_RATIO = 1.0
_DEFAULT_K = 2
Experts = tuple[int, ...]
_KINDS: Mapping[str, RoutingKind] = {name: kind for kind, name in ROUTERS.items()}


def describe_moe(facts: ModelFacts, num_layers: int) -> MoeConfig | None:
    """Describe the MoE layers of a model with `num_layers` blocks, or return None for a dense ViT.

    Raises:
        ConfigError, OptionError: as for `model_description.describe_model`.
    """
    blocks = [f"Encoder/encoderblock_{i}" for i in range(num_layers)]
    layers = tuple(i for i, b in enumerate(blocks) if any(n.startswith(f"{b}/Moe/") for n in facts.shapes))
    if not layers:
        return None
    routers = [f"{blocks[i]}/Moe/Router" for i in layers]
    mlp_dim = facts.shape(f"{blocks[layers[0]]}/Moe/Mlp/Dense_0/kernel", 3)[2]
    given = mapping(facts.encoder, "moe")
    kind = _kind(facts, routers[0], mapping(given, "router"))
    dispatcher = mapping(mapping(given, "router"), "dispatcher")
    facts.note("inferred", "num_experts", "layers")
    routing: RoutingConfig
    if kind == "soft":
        experts, routing = _soft(facts, routers, given)
        # The official Soft MoE router always rounds to bfloat16.
        bf16 = facts.setting("dispatch_bf16", dispatcher, "bfloat16", True)
    else:
        if dispatcher.get("capacity") is not None:
            raise ConfigError("the config fixes the dispatcher's capacity to a number; pass --capacity instead")
        read = _top_k if kind == "top-k" else _experts_choice
        experts, routing = read(facts, [f"{router}/dense/kernel" for router in routers], given, dispatcher)
        bf16 = facts.setting("dispatch_bf16", dispatcher, "bfloat16", False)
    if bf16 not in (True, False):
        raise ConfigError(f"bfloat16 is {bf16!r:.60}, not true or false")
    return MoeConfig(experts, mlp_dim, layers, bool(bf16), routing)


def _kind(facts: ModelFacts, first: str, router: Mapping[str, Any]) -> RoutingKind:
    """Return the routing kind.

    The tensors show whether the model is a Soft MoE. They do not distinguish the other kinds.
    """
    name = router.get("name")
    named = None if name is None else _KINDS.get(str(name).rpartition(".")[2])
    if name is not None and named is None:
        raise ConfigError(f"the router {name!r:.60} is not supported; {', '.join(_KINDS)} are")
    is_soft, flag = f"{first}/mu" in facts.shapes, facts.flags.get("router")
    if is_soft and flag:
        raise OptionError(f"--router {flag} doesn't fit: the routers' tensors are those of a Soft MoE")
    if named is not None and (named == "soft") != is_soft:
        are = "are" if is_soft else "are not"
        raise ConfigError(f"the config names the router {name!r:.60}, but the tensors {are} those of a Soft MoE")
    facts.note("inferred" if is_soft else "flag" if flag else "config" if named else "default", "kind")
    return "soft" if is_soft else cast(RoutingKind, flag or named or "top-k")


def _soft(facts: ModelFacts, routers: Sequence[str], given: Mapping[str, Any]) -> tuple[Experts, Soft]:
    """Return E, the number of experts, for each MoE layer, and the routing."""
    for field in ("rounding", "capacity_multiple_of", "ensemble_size"):
        if field in facts.flags:
            raise OptionError(f"Soft MoE has no capacity to round and no members, so it takes no {field}")
    experts = tuple(facts.shape(f"{router}/mu", 3)[1] for router in routers)
    slots = facts.shape(f"{routers[0]}/mu", 3)[2]
    slots_in_config = mapping(given, "router").get("num_slots")
    if slots_in_config is not None and slots_in_config != slots:
        raise ConfigError(
            f"the config says num_slots {slots_in_config!r:.60}, but the checkpoint has {slots} slots per expert"
        )
    facts.note("inferred", "slots_per_expert")
    return experts, Soft(slots)


def _top_k(
    facts: ModelFacts, routers: Sequence[str], given: Mapping[str, Any], dispatcher: Mapping[str, Any]
) -> tuple[Experts, TopK]:
    """Return E, the number of experts, for each MoE layer, and the routing."""
    experts, members = _experts(facts, routers, given)
    most = min(experts) // members
    router_config = mapping(given, "router")
    k, whole = facts.setting("k", router_config, "num_selected_experts", min(_DEFAULT_K, most)), given.get("num_experts")
    if isinstance(k, int) and isinstance(whole, int) and whole > min(experts) and most < k <= whole:
        k = most  # the config was written before the model was pruned, so its k is too large
        facts.note("inferred", "k")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        of = "the checkpoint" if members == 1 else f"each of the {members} members"
        raise ConfigError(f"num_selected_experts is {k!r:.60}, but {of} has {most} experts")
    ratio, rounding, multiple = _capacity(facts, dispatcher, _DEFAULT_CAPACITY_RATIO)
    ratio = min(ratio, float(max(experts)))  # a capacity ratio above E would be refused later
    normalize = bool(router_config.get("normalize_weights"))
    return experts, TopK(k, ratio, rounding, multiple, members, normalize)


def _experts_choice(
    facts: ModelFacts, routers: Sequence[str], given: Mapping[str, Any], dispatcher: Mapping[str, Any]
) -> tuple[Experts, ExpertsChoice]:
    """Return E, the number of experts, for each MoE layer, and the routing."""
    members = len(facts.shapes.get(routers[0], ())) == 3 or facts.flags.get("ensemble_size", 1) != 1
    if members or given.get("ensemble_size") not in (None, 1):
        raise OptionError("ensembles (E3) do not support expert choice; omit the router or the ensemble size")
    experts = tuple(facts.shape(router, 2)[1] for router in routers)
    return experts, ExpertsChoice(*_capacity(facts, dispatcher, _DEFAULT_EXPERTS_CHOICE_RATIO))


def _capacity(facts: ModelFacts, dispatcher: Mapping[str, Any], default: float) -> tuple[float, Rounding, int]:
    """Return the training capacity ratio, its rounding, and the number of which the slots per expert are a multiple."""
    ratio = facts.setting("capacity_ratio", dispatcher, "capacity_factor", default)
    rounding = facts.setting("rounding", dispatcher, "capacity_ceil_or_round", DEFAULT_ROUNDING)
    multiple = facts.setting("capacity_multiple_of", dispatcher, "capacity_multiple_of", 1)
    if rounding not in ROUNDINGS:
        raise ConfigError(f"capacity_ceil_or_round is {rounding!r:.60}, not 'ceil' or 'round'")
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 0:
        raise ConfigError(f"capacity_multiple_of is {multiple!r:.60}, not an integer")
    return number({"capacity_factor": ratio}, "capacity_factor", 0.0), cast(Rounding, rounding), max(multiple, 1)


def _experts(facts: ModelFacts, routers: Sequence[str], given: Mapping[str, Any]) -> tuple[Experts, int]:
    """Return E, the number of experts, for each MoE layer, and M, the number of members of the ensemble.

    A fine-tuned E3 has a router [D, M, E/M]. A pre-trained E3 has the router [D, E] of a plain V-MoE. Member m owns the
    columns from m * E/M up to (m + 1) * E/M of this router. The tensors alone do not distinguish a pre-trained E3 from a
    plain V-MoE.
    """
    shape, *others = (facts.shape(router, 3 if len(facts.shapes.get(router, ())) == 3 else 2) for router in routers)
    experts = tuple(math.prod(each[1:]) for each in (shape, *others))
    # For `ensemble_size`, None in an official config means unknown, not "off".
    given = {key: value for key, value in given.items() if value is not None}
    members = facts.setting("ensemble_size", given, "ensemble_size", shape[1] if len(shape) == 3 else 1)
    if isinstance(members, bool) or not isinstance(members, int) or members < 1 or any(e % members for e in experts):
        whole = by_layer(experts)
        raise ConfigError(f"the ensemble size is {members!r:.60}, which is not an integer that divides {whole} experts")
    if len(shape) == 3:
        if members != shape[1]:
            raise ConfigError(f"the ensemble size is {members}, but the routers are those of {shape[1]} members")
        facts.note("inferred", "ensemble_size")
    elif facts.origins["ensemble_size"] == "default" and "Ensemble" in str(facts.config.get("name")):
        raise ConfigError("the config is for an ensemble (E3) but sets no ensemble_size; pass --ensemble-size M")
    return experts, members
