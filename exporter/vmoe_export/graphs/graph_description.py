"""What a graph file says of itself to whoever opens it without its bundle: in a viewer, or in ONNX Runtime's metadata."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from vmoe_export import __version__
from vmoe_export.model.grouping import Grouping
from vmoe_export.model.torch_model import Vmoe
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES

_WHAT = "model"


def describe(proto: onnx.ModelProto, model: Vmoe, grouping: Grouping, default: Profile | None) -> None:
    """Notes what the canonical graph is, in `metadata_props`, and how it is run, in `doc_string`.

    Args:
        proto: the graph.
        model: the model that it computes.
        grouping: its routing groups.
        default: the profile that calls get when they say nothing else; None for a dense ViT.
    """
    config, moe = model.config, model.config.moe
    shape = ",".join(map(str, (*config.image_size, config.channels)))
    pixels = f"uint8[N,{shape}] in 0..255" if model.uint8_input else f"float32[N,{shape}] in [-1, 1]"
    members = f"{config.ensemble_size},{config.num_classes}"
    sizes = {"logits": config.num_classes, "members": members, "features": config.feature_size}
    experts = f" with {moe.num_experts} experts in blocks {', '.join(map(str, moe.layers))}" if moe else ""
    facts = {
        _WHAT: f"{KIND_NAMES[moe.routing.kind] if moe else 'Dense ViT'} of {config.num_layers} blocks{experts}; "
        f"hidden size {config.hidden_size}, patches of {'x'.join(map(str, config.patch_size))} px",
        "precision": model.precision,
        "input": f"image {pixels}",
        "output": f"{model.output} float32[N,{sizes[model.output]}]",
    }
    if moe:
        facts["routing_group"] = f"{grouping.name}, {grouping.tokens} tokens; N is a multiple of {grouping.batch_multiple}"
    if default is not None:
        facts["profile"] = default.name
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    how = (
        f"{settings_sentence(default.inputs())} and {'have defaults' if len(default.inputs()) > 1 else 'has a default'}. "
        if default
        else ""
    )
    explain(proto, f"{how}Any ONNX Runtime from 1.21 on runs it; vmoe_runtime and its op library make it fast.")


def settings_sentence(names: Iterable[str]) -> str:
    """What the inputs of those names are for."""
    *most, last = names
    return f"Inputs {', '.join(most)} and {last} choose the routing" if most else f"Input {last} chooses the routing"


def explain(proto: onnx.ModelProto, how: str) -> None:
    """Writes `doc_string`: what the model is, as `describe` noted it, and how this file is run."""
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    proto.doc_string = (
        f"{facts[_WHAT]}; exported by vmoe-export {__version__}. Takes {facts['input']}, gives {facts['output']}. {how} "
        f"Its weights are in {WEIGHTS_NAME} beside it."
    )
    proto.graph.doc_string = proto.doc_string


def fix_profile(proto: onnx.ModelProto, profile: Profile | None, precision: str) -> None:
    """Notes that a graph is fixed to a profile, and in which type its large products are."""
    for entry in proto.metadata_props:
        if entry.key == "precision":
            entry.value = precision
        elif entry.key == "profile" and profile is not None:
            entry.value = profile.name
