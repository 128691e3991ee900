"""A page's data about its bundle, as plain values for the JSON file that the page's scripts read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vmoe_measure.flops import dense_flops, sparse_flops
from vmoe_runtime import RoutingError, VmoeError
from vmoe_runtime.bundle.external_data import fields
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, WEIGHTS_NAME, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.resampling import GREY_WEIGHTS, MODES
from vmoe_runtime.routing import TokenLayout, layer_outputs
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import MERGE, ROWS, SETTINGS, Setting, SettingValue
from vmoe_tools.bench.quality import model_shape
from vmoe_tools.patch_pictures import expert_colours

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.05, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Steps of the capacity slider, in addition to the ratios of the bundle's profiles."""

_GRAPH, _INITIALIZER, _NAME = 7, 5, 8  # field numbers in ModelProto, GraphProto and TensorProto of onnx.proto3
_MOST_VALUES = 1024  # maximum number of slider steps; limits what a manifest can request
_MOST_WEIGHTS = 2**31 - 1  # bytes; WebAssembly in a browser has 4 GiB in total, and the runtime needs part of them


def page_facts(bundle: Bundle) -> dict[str, Any]:
    """Return the data about an open bundle that the page's scripts read.

    Raises:
        VmoeError: the page can't show the bundle.
    """
    manifest = bundle.manifest
    if why := _why_not(manifest):
        raise VmoeError(f"{bundle.path} can't be shown: {why}")
    image, layout, values = manifest.input, TokenLayout.of(manifest), _values(manifest)
    first = next(iter(manifest.profiles.values()), None)
    starts, neutral = first.values if first else {}, _neutral(manifest.rules, first)
    return {
        "name": bundle.path.resolve().name,
        "summary": f"{manifest.summary}, {manifest.precision}",
        "precision": manifest.precision,
        "input": {"dtype": image.dtype, "shape": [1, *image.size], "height": image.height, "width": image.width},
        "rotates": image.steps.rotates,
        "background": image.steps.background,
        "grey_weights": GREY_WEIGHTS,
        "steps": [[step.name, step.height, step.width, step.keeps_shape] for step in image.steps.steps],
        "class_names": manifest.class_names,
        "probabilities": manifest.probabilities,
        "layers": manifest.moe_layers,
        "layer_outputs": list(layer_outputs(manifest)) if manifest.moe_layers else [],
        "layout": layout and {**asdict(layout), "patch_size": manifest.model["patch_size"]},
        "controls": {
            name: {
                "label": ROWS[name].title,
                "values": values[name],
                "start": starts.get(name, 0),
                "suffix": ROWS[name].suffix,
                "neutral": neutral.get(name),
            }
            for name in manifest.rules.settings
        },
        "slots": {k: [_slots(manifest, first, ratio, k) for ratio in values["capacity"]] for k in values["k"]},
        "flops": _flops(manifest, values["merge"]),
        "colours": expert_colours(manifest.rules.num_experts),
        "bytes": {name: manifest.files[name].size for name in (CANONICAL_GRAPH, WEIGHTS_NAME)},
        "versions": {name: manifest.files[name].sha256 for name in (CANONICAL_GRAPH, WEIGHTS_NAME)},
    }


def graph_without_defaults(graph: bytes) -> bytes:
    """Remove the default values of the settings from a canonical graph.

    With default values, onnxruntime-web doesn't let a call set the settings. A default value is an initializer that has the
    name of a setting. So this function replaces the initializer's name with an unused name of the same length, which
    removes the default.
    """
    edited = bytearray(graph)
    for number, part in fields(memoryview(edited)):
        for inner, tensor in fields(part) if number == _GRAPH and isinstance(part, memoryview) else ():
            for field, name in fields(tensor) if inner == _INITIALIZER and isinstance(tensor, memoryview) else ():
                if field == _NAME and isinstance(name, memoryview) and bytes(name).decode() in SETTINGS:
                    name[:] = b"_" * len(name)
    return bytes(edited)


def _why_not(manifest: Manifest) -> str | None:
    if manifest.output != "logits":
        return f"it outputs {manifest.output}, and the page shows classes; export it with --output logits"
    if manifest.batch_multiple > 1:
        return f"it routes {manifest.batch_multiple} images together, and the page has one; export it with --group image"
    if manifest.input.channels not in MODES:
        return f"its images have {manifest.input.channels} channels, and pictures have 1 or 3"
    if manifest.files[WEIGHTS_NAME].size > _MOST_WEIGHTS:
        return "its weights have more than 2 GiB, which is too much for a browser's WebAssembly; export it in int8"
    return None


def _neutral(rules: RoutingRules, first: Profile | None) -> dict[str, SettingValue]:
    """Return, for each setting, the value that the names of profiles don't mention, such as True for `bpr`."""
    defaults = {name: row.default for name, row in ROWS.items() if name in rules.settings and row.default is not None}
    return {name: value for name, value in rules.profile_of(Setting.of(defaults), first).values.items() if name in defaults}


def _values(manifest: Manifest) -> dict[str, list[Any]]:
    """Return, for each setting, the values that its control offers.

    `capacity`, `k` and `merge` are always included.
    """
    rules, profiles = manifest.rules, list(manifest.profiles.values())
    most = {
        "k": min(rules.experts, default=1) // rules.ensemble_size,
        "max_experts": rules.num_experts,
        MERGE: (rules.image_tokens or 0) // 2,
    }
    offered: dict[str, list[Any]] = {"capacity": [], "k": [1]}
    for name in rules.settings:
        row, stored = ROWS[name], {profile.values[name] for profile in profiles}
        if row.type == "flag":
            offered[name] = [False, True]
        elif row.type == "ratio":
            offered[name] = sorted(ratio for ratio in {*RATIOS, *stored} if ratio <= rules.num_experts)
        else:
            least, limit = row.range or (1, _MOST_VALUES)
            offered[name] = sorted({*range(least, min(most.get(name, limit), _MOST_VALUES) + 1), *stored})
    return {MERGE: [0], **offered}


def _slots(manifest: Manifest, base: Profile | None, ratio: float, k: int) -> tuple[int, ...] | None:
    """Return the number of slots per expert in each MoE layer; None if the model refuses the setting."""
    try:
        return manifest.rules.profile(base, capacity=ratio, k=k if "k" in manifest.rules.settings else None).slots
    except RoutingError:
        return None


def _flops(manifest: Manifest, merges: list[int]) -> dict[str, Any] | None:
    """Return the FLOPs per image; None if the manifest lacks the sizes.

    Returns:
        - `by_merge`: for each value of `merge`, the FLOPs of everything except experts
        - `of_row`: an expert's FLOPs per row. A row is a kept pair or, in a Soft MoE, a slot.
        - `dense`: FLOPs of the dense model
        - `of_class_pairs`: whether the last layer computes only the pairs of the class token
    """
    shape = model_shape(manifest)
    if shape is None:
        return None
    none, one = ([rows] * len(shape.moe_layers) for rows in (0, 1))
    by_merge = {merge: sparse_flops(shape, none, merge) for merge in merges}
    of_row, is_class = (sparse_flops(shape, one) - by_merge[0]) / (len(none) or 1), shape.ends_in_class_pairs
    return {"by_merge": by_merge, "of_row": of_row, "dense": dense_flops(shape), "of_class_pairs": is_class}
