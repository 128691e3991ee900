"""Reads a bundle's manifest, and checks the whole manifest before it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

from vmoe_runtime.bundle import manifest_fields as tables
from vmoe_runtime.bundle.manifest import (
    CANONICAL_GRAPH,
    DENSE_GRAPH_KEY,
    FORMAT,
    FORMAT_VERSION,
    INLINED_GRAPH,
    MANIFEST_NAME,
    MERGING_GRAPH,
    PROBABILITIES,
    WEIGHTS_NAME,
    FileRecord,
    InputSpec,
    Manifest,
    TensorRtGraphs,
    layer_output,
)
from vmoe_runtime.bundle.strict_json import parse_json
from vmoe_runtime.errors import BundleError, RoutingError
from vmoe_runtime.preprocessing import read_steps
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import SettingKind
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import ROWS, Setting


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: the text is not JSON, has an unsupported format version, or contradicts itself or the format.
    """
    try:
        raw = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not readable JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST_NAME} is not the manifest of a vmoe bundle")
    version = raw.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version!s:.40}, and this version of vmoe-export reads {FORMAT_VERSION} only; "
            "export it again with this version, or read it with the one that wrote it"
        )
    try:
        tables.check_fields(raw, tables.KIND_FIELDS, "top-k")
        kind = tables.kind_of(raw)
        tables.check_fields(raw, tables.MANIFEST_FIELDS, kind)
        return _manifest(raw, kind)
    except (RoutingError, ValueError) as error:
        raise BundleError(f"{MANIFEST_NAME}: {error}") from None


def _manifest(raw: dict[str, Any], kind: SettingKind) -> Manifest:
    """Return the manifest after checking that its fields fit together.

    Each field must already have been checked by itself.
    """
    image, output = raw["input"], raw["output"]
    try:
        steps = read_steps(raw["preprocessing"]["steps"])
        steps.check_size(image["height"], image["width"])
    except ValueError as error:
        raise ValueError(f"'preprocessing': {error}") from None
    if output["name"] == ("features" if kind == "ensemble" else "members"):
        raise ValueError(f"'name' of the output is '{output['name']}', which a model of the kind {kind} doesn't have")
    names = raw.get("class_names")
    if names is not None and (len(names) != output["size"] or not all(isinstance(n, str) for n in names)):
        raise ValueError(f"class_names must be {output['size']} strings")
    layers, group = ((), None) if kind == "dense" else (_layers(raw), _group(raw))
    rules = _rules(raw, len(layers))
    profiles = _profiles(raw["profiles"], kind, rules)
    answers = _answers(raw, rules.ensemble_size)
    files = _files(raw["files"])
    if (MERGING_GRAPH in files) != (raw["graphs"].get("merging") is not None):
        raise ValueError(f"'graphs' and 'files' don't agree on {MERGING_GRAPH}")
    return Manifest(
        model=raw["model"],
        input=InputSpec(image["dtype"], image["height"], image["width"], image["channels"], steps),
        output=output["name"],
        outputs=output["size"],
        answers=MappingProxyType(answers),
        probabilities=raw.get("probabilities") or PROBABILITIES[0],
        moe_layers=layers,
        rules=rules,
        group=group,
        precision=raw["precision"],
        batch_multiple=raw["batch_multiple"],
        profiles=MappingProxyType(profiles),
        class_names=None if names is None else tuple(names),
        tensorrt=_tensorrt(raw.get("tensorrt"), profiles.keys() or {DENSE_GRAPH_KEY}, files),
        files=MappingProxyType(files),
        raw=MappingProxyType(raw),
    )


def _answers(raw: Mapping[str, Any], members: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each output for one image, by the output's name. Routing outputs are left out."""
    output: Mapping[str, Any] = raw["output"]
    name, size, tokens = output["name"], output["size"], output.get("tokens")
    if (tokens is not None) != (name == "tokens"):
        raise ValueError("an output of tokens, and no other, has a number of 'tokens'")
    answers: dict[str, tuple[int, ...]] = {name: (members, size) if name == "members" else (size,)}
    by_token = {name: (tokens, size)} if tokens else {}
    if layers := raw.get("layers"):
        blocks = layers["blocks"]
        # True equals 1 in Python, but True is not a block number.
        if not blocks or not all(type(block) is int and 0 <= block <= tables.MAX_BLOCK for block in blocks):
            raise ValueError(f"'blocks' must be numbers of encoder blocks, 0 to {tables.MAX_BLOCK}")
        if blocks != sorted(set(blocks)):
            raise ValueError("'blocks' must be in ascending order, each once")
        by_token |= {layer_output(block): (layers["tokens"], layers["size"]) for block in blocks}
    if any(math.prod(shape) > tables.MAX_OUTPUT_SIZE for shape in by_token.values()):
        raise ValueError(f"'tokens' times 'size' is more than {tables.MAX_OUTPUT_SIZE}")
    return answers | by_token


def _layers(raw: Mapping[str, Any]) -> tuple[str, ...]:
    layers = raw["routing"]["layers"]
    if not layers or not all(isinstance(n, str) and re.fullmatch(tables.BLOCK_PATTERN, n) for n in layers):
        raise ValueError("'layers' must name encoder blocks")
    if len(set(layers)) < len(layers) or len(layers) > tables.MAX_MOE_LAYERS:
        raise ValueError(f"'layers' names a block twice, or more than {tables.MAX_MOE_LAYERS}")
    return tuple(layers)


def _group(raw: Mapping[str, Any]) -> str:
    group: str = raw["routing"]["group"]
    match = re.fullmatch(tables.GROUP_PATTERN, group)
    if match is None:
        raise ValueError(f"'group' is {group!r:.60}, not image, batch, a number of images or tokens:S")
    what, other = ("group_tokens", raw["routing"]) if match[1] else ("batch_multiple", raw)
    if group != "batch" and int(match[2] or 1) != other[what]:
        raise ValueError(f"'group' is '{group}', and '{what}' is {other[what]}")
    return group


def _rules(raw: Mapping[str, Any], layers: int) -> RoutingRules:
    merging, routing = raw.get("image_tokens"), raw.get("routing")
    if routing is None:
        return RoutingRules("dense", image_tokens=merging)
    experts, tokens, members = _experts(routing, layers), routing["group_tokens"], routing.get("ensemble_size") or 1
    if merging is not None and tokens % merging:
        raise ValueError(f"'image_tokens' is {merging}, which doesn't divide 'group_tokens'")
    for name, counts in (("num_experts", experts), ("group_tokens", (tokens,))):
        if any(whole % members for whole in counts):
            raise ValueError(f"'ensemble_size' is {members}, which doesn't divide '{name}'")
    own = ("rounding", "capacity_multiple_of", "slots_per_expert")
    return RoutingRules(
        routing["kind"],
        experts,
        tokens,
        merging,
        ensemble_size=members,
        **{name: routing[name] for name in own if routing.get(name) is not None},
    )


def _experts(routing: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Return E, the number of experts, for each MoE layer."""
    largest: int = routing["num_experts"]
    experts = routing.get("layer_experts")
    if experts is None:
        return (largest,) * layers
    # True equals 1 in Python, but True is not a number of experts.
    if len(experts) != layers or not all(type(count) is int and count >= 1 for count in experts) or max(experts) != largest:
        raise ValueError("'layer_experts' must have a number for each of 'layers', and 'num_experts' is the largest")
    return tuple(experts)


def _profiles(entries: list[Any], kind: SettingKind, rules: RoutingRules) -> dict[str, Profile]:
    profiles: dict[str, Profile] = {}
    for entry in entries:
        if not rules.settings or not isinstance(entry, dict):
            raise ValueError(f"profiles must be objects, and a model of the kind {kind} has none")
        tables.check_fields(entry, tables.PROFILE_FIELDS, kind)
        name: str = entry["name"]
        try:
            computed = rules.profile_of(Setting.of({setting: entry.get(row.stored) for setting, row in ROWS.items()}))
        except RoutingError as error:
            raise ValueError(f"profile {name!r:.60}: {error}") from None
        for key, value in computed.stored().items():
            if entry.get(key) not in (None, value):
                raise ValueError(f"profile {name!r:.60} says '{key}' {entry[key]}, but it can be at most {value}")
        # 1.0 and True equal 1 in Python, but they are not numbers of slots.
        capacity, slots = entry.get("capacity") or [], list(computed.slots)
        if capacity != slots or not all(type(count) is int for count in capacity) or computed.name != name:
            raise ValueError(f"profile {name!r:.60} says capacity {capacity!r:.60}, but its setting gives {_told(computed)}")
        if name in profiles:
            raise ValueError(f"there are two profiles {name!r}")
        profiles[name] = computed
    if not profiles and kind not in ("dense", "soft"):
        raise ValueError("a sparse model needs at least one profile")
    return profiles


def _told(profile: Profile) -> str:
    if not profile.slots:
        return profile.name
    return f"{profile.name} with {profile.slots[0]} slots per expert in the first of {len(profile.slots)} MoE layers"


def _files(entries: dict[str, Any]) -> dict[str, FileRecord]:
    files = {}
    for name, entry in entries.items():
        if not re.fullmatch(tables.FILE_PATTERN, name) or name == MANIFEST_NAME:
            raise ValueError(f"{name!r:.60} is not a file name that a bundle may hold")
        if not isinstance(entry, dict):
            raise ValueError(f"'{name}' is no object")
        tables.check_fields(entry, tables.FILE_FIELDS, "dense")
        if not re.fullmatch(tables.SHA256_PATTERN, entry["sha256"]):
            raise ValueError(f"'{name}' has no SHA-256")
        files[name] = FileRecord(entry["sha256"], entry["bytes"])
    for name in (WEIGHTS_NAME, CANONICAL_GRAPH, INLINED_GRAPH):
        if name not in files:
            raise ValueError(f"the bundle has no {name}")
    return files


def _tensorrt(entry: dict[str, Any] | None, keys: Set[str], files: Mapping[str, FileRecord]) -> TensorRtGraphs | None:
    if entry is None:
        return None
    graphs = entry["graphs"]
    for name, graph in graphs.items():
        if name not in keys:
            raise ValueError(f"'tensorrt' has a graph for {name!r:.60}, and there is no such profile")
        if not isinstance(graph, str) or graph not in files or not graph.endswith(".onnx"):
            raise ValueError(f"'tensorrt' names {graph!r:.60}, which is no graph file of the bundle")
    if not graphs or len(set(graphs.values())) < len(graphs):
        raise ValueError("'tensorrt' names no graphs, or one file for two profiles")
    return TensorRtGraphs(entry["precision"], MappingProxyType(graphs))
