"""What a graph file says of itself to whoever opens it without its bundle: in a viewer, or in ONNX Runtime's metadata."""

from __future__ import annotations

import onnx

from vmoe_export.model.grouping import Grouping
from vmoe_export.model.torch_model import Vmoe
from vmoe_runtime import __version__
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES


def describe(
    proto: onnx.ModelProto, model: Vmoe, grouping: Grouping, profile: Profile | None, precision: str, how: str
) -> None:
    """Notes what a graph is, in `metadata_props`, and how it is run, in `doc_string`.

    Args:
        proto: the graph.
        model: the model that it computes.
        grouping: its routing groups.
        profile: its default or only profile; None for a dense ViT.
        precision: of its large products.
        how: sentences on how it is run.
    """
    config, moe = model.config, model.config.moe
    shape = ",".join(map(str, (*config.image_size, config.channels)))
    pixels = f"uint8[N,{shape}] in 0..255" if model.uint8_input else f"float32[N,{shape}] in [-1, 1]"
    members = f"{config.ensemble_size},{config.num_classes}"
    sizes = {"logits": config.num_classes, "members": members, "features": config.feature_size}
    experts = f" with {moe.num_experts} experts in blocks {', '.join(map(str, moe.layers))}" if moe else ""
    facts = {
        "model": f"{KIND_NAMES[moe.routing.kind] if moe else 'Dense ViT'} of {config.num_layers} blocks{experts}; "
        f"hidden size {config.hidden_size}, patches of {'x'.join(map(str, config.patch_size))} px",
        "precision": precision,
        "input": f"image {pixels}",
        "output": f"{model.output} float32[N,{sizes[model.output]}]",
    }
    if moe:
        facts["routing_group"] = f"{grouping.name}, {grouping.tokens} tokens; N is a multiple of {grouping.batch_multiple}"
    if profile is not None:
        facts["profile"] = profile.name
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    proto.doc_string = (
        f"{facts['model']}; exported by vmoe-export {__version__}. Takes {facts['input']}, returns {facts['output']}. {how} "
        f"Its weights are in {WEIGHTS_NAME} beside it."
    )
    proto.graph.doc_string = proto.doc_string
