"""Reads the manifest of a bundle: nothing in it is believed that was not checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import replace
from types import MappingProxyType, UnionType
from typing import Any, Literal, cast

from vmoe_runtime.bundle.manifest import (
    CANONICAL_GRAPH,
    DENSE_GRAPH_KEY,
    FORMAT,
    FORMAT_VERSION,
    IMAGE_INPUT,
    INLINED_GRAPH,
    KINDS_VERSION,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileRecord,
    InputSpec,
    Manifest,
    Output,
    Precision,
    TensorRtGraphs,
    TensorRtPrecision,
)
from vmoe_runtime.bundle.strict_json import parse_json
from vmoe_runtime.errors import BundleError, RoutingError
from vmoe_runtime.preprocessing import Preprocessing, read_steps
from vmoe_runtime.profiles import POLICIES, SETTINGS, Profile
from vmoe_runtime.routing_kinds import (
    ROUTING_KINDS,
    ExpertsChoiceRules,
    RoutingKind,
    RoutingRules,
    SoftRules,
    TopKRules,
)

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_NAME = re.compile(r"encoderblock_[0-9]{1,6}")
_GROUP = re.compile(r"image|batch|(tokens:)?([1-9][0-9]{0,8})")
_MAX_PIXELS = 65_536  # of a side, and channels
_MAX_BATCH_MULTIPLE = 65_536
_MAX_OUTPUT_SIZE = 2**24  # callers allocate this many floats per image; no head comes near it
_MAX_MOE_LAYERS = 1_000
_MAX_EXPERTS = 65_536
_MAX_SLOTS = 65_536  # of an expert and group in Soft MoE
_MAX_INT32 = 2**31 - 1  # tokens and places are counted in int32 by the graphs
_MAX_FILE_BYTES = 2**53
_SQUASH = '{"antialias": false, "resize": "bilinear", "value_range": [-1, 1]}'  # of bundles from before there were steps


def parse_manifest(text: bytes) -> Manifest:
    """Reads a manifest.

    Raises:
        BundleError: it is not JSON, of a newer format, or says something that can't be.
    """
    try:
        raw = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not readable JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST_NAME} is not the manifest of a vmoe bundle")
    version = _get(raw, "format_version", int)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version!s:.40}, and this version of vmoe_runtime reads up to "
            f"{FORMAT_VERSION}; upgrade vmoe-export"
        )
    if version < 1:
        raise BundleError(f"{MANIFEST_NAME}: format_version is {version!s:.40}")
    image = _get(raw, "input", dict)
    input_spec = InputSpec(
        cast(Literal["float32", "uint8"], _choice(image, "dtype", "float32", "uint8")),
        _positive(image, "height", _MAX_PIXELS),
        _positive(image, "width", _MAX_PIXELS),
        _positive(image, "channels", _MAX_PIXELS),
    )
    input_spec = replace(input_spec, preprocessing=_preprocessing(_get(raw, "preprocessing", dict | None), input_spec))
    _only(image, "name", IMAGE_INPUT)
    graphs = _get(raw, "graphs", dict | None) or {}
    _only(graphs, "canonical", CANONICAL_GRAPH)
    _only(graphs, "inlined", INLINED_GRAPH)
    output = _get(raw, "output", dict)
    outputs = _positive(output, "size", _MAX_OUTPUT_SIZE)
    batch_multiple = _positive(raw, "batch_multiple", _MAX_BATCH_MULTIPLE)
    rules, layers, group = _routing(_get(raw, "routing", dict | None), batch_multiple, version)
    names = _get(raw, "class_names", list | None)
    if names is not None and (len(names) != outputs or not all(isinstance(n, str) for n in names)):
        raise BundleError(f"{MANIFEST_NAME}: class_names must be {outputs} strings")
    profiles = _profiles(_get(raw, "profiles", list), rules, len(layers))
    files = _files(_get(raw, "files", dict))
    return Manifest(
        version=version,
        model=_get(raw, "model", dict),
        input=input_spec,
        output=_output(output, rules),
        outputs=outputs,
        moe_layers=layers,
        rules=rules,
        group=group,
        precision=_precision(raw, version),
        batch_multiple=batch_multiple,
        profiles=MappingProxyType(profiles),
        class_names=None if names is None else tuple(names),
        tensorrt=_tensorrt(_get(raw, "tensorrt", dict | None), profiles.keys() or {DENSE_GRAPH_KEY}, files),
        files=MappingProxyType(files),
        raw=MappingProxyType(raw),
    )


def _preprocessing(entry: dict[str, Any] | None, spec: InputSpec) -> Preprocessing:
    if entry is None or json.dumps(entry, sort_keys=True) == _SQUASH:
        return spec.steps
    try:
        steps = read_steps(_get(entry, "steps", str))
        steps.check_size(spec.height, spec.width)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME}: 'preprocessing': {error}") from None
    return steps


def _precision(raw: Mapping[str, Any], version: int) -> Precision:
    given = {"precision": "fp32", **raw}
    if version == 1:
        # bfloat16 was for experts alone then.
        return "bf16-experts" if _choice(given, "precision", "fp32", "bf16") == "bf16" else "fp32"
    return cast(Precision, _choice(given, "precision", "fp32", "bf16", "int8", "bf16-experts"))


def _routing(
    routing: dict[str, Any] | None, batch_multiple: int, version: int
) -> tuple[RoutingRules | None, tuple[str, ...], str | None]:
    if routing is None:
        return None, (), None
    layers = _get(routing, "layers", list)
    if not layers or not all(isinstance(n, str) and _BLOCK_NAME.fullmatch(n) for n in layers):
        raise BundleError(f"{MANIFEST_NAME}: 'layers' must name encoder blocks")
    if len(set(layers)) < len(layers) or len(layers) > _MAX_MOE_LAYERS:
        raise BundleError(f"{MANIFEST_NAME}: 'layers' names a block twice, or more than {_MAX_MOE_LAYERS}")
    rules = _rules(routing, len(layers), version)
    group = _get(routing, "group", str)
    match = _GROUP.fullmatch(group)
    if match is None:
        raise BundleError(f"{MANIFEST_NAME}: 'group' is {group!r:.60}, not image, batch, a number of images or tokens:S")
    count, said = int(match[2] or 1), rules.group_tokens if match[1] else batch_multiple
    if group != "batch" and count != said:
        what = "'group_tokens'" if match[1] else "'batch_multiple'"
        raise BundleError(f"{MANIFEST_NAME}: 'group' is '{group}', and {what} is {said}")
    return rules, tuple(layers), group


def _rules(routing: dict[str, Any], layers: int, version: int) -> RoutingRules:
    kind: RoutingKind = "top-k"
    if version >= KINDS_VERSION:
        kind = cast(RoutingKind, _choice(routing, "kind", *ROUTING_KINDS))
    experts = _positive(routing, "num_experts", _MAX_EXPERTS)
    tokens = _positive(routing, "group_tokens", _MAX_INT32)
    if kind == "soft":
        _none_of(routing, "Soft MoE", "rounding", "capacity_multiple_of", "ensemble_size")
        return SoftRules(experts, tokens, layers, _positive(routing, "slots_per_expert", _MAX_SLOTS))
    if version >= KINDS_VERSION:
        _none_of(routing, kind, "slots_per_expert")
    rounding = cast(Literal["ceil", "round"], _choice(routing, "rounding", "ceil", "round"))
    multiple = _positive(routing, "capacity_multiple_of", _MAX_INT32)
    if kind == "experts-choice":
        _none_of(routing, kind, "ensemble_size")
        return ExpertsChoiceRules(experts, tokens, layers, rounding, multiple)
    members = _ensemble_size(routing, experts, tokens) if version >= KINDS_VERSION else 1
    return TopKRules(experts, tokens, layers, rounding, multiple, members)


def _ensemble_size(routing: dict[str, Any], experts: int, tokens: int) -> int:
    if routing.get("ensemble_size") is None:
        return 1
    size = _positive(routing, "ensemble_size", _MAX_EXPERTS)
    for name, whole in (("num_experts", experts), ("group_tokens", tokens)):
        if whole % size:
            raise BundleError(f"{MANIFEST_NAME}: 'ensemble_size' is {size}, which doesn't divide '{name}'")
    return size


def _none_of(mapping: Mapping[str, Any], what: str, *keys: str) -> None:
    """Refuses fields that mean nothing here."""
    for key in keys:
        if mapping.get(key) is not None:
            raise BundleError(f"{MANIFEST_NAME}: '{key}' means nothing with {what}")


def _output(entry: dict[str, Any], rules: RoutingRules | None) -> Output:
    names = ("logits", "features") if rules is None or rules.ensemble_size == 1 else ("logits", "members")
    return cast(Output, _choice(entry, "name", *names))


def _profiles(entries: list[Any], rules: RoutingRules | None, layers: int) -> dict[str, Profile]:
    profiles: dict[str, Profile] = {}
    for entry in entries:
        if rules is None or not isinstance(entry, dict):
            raise BundleError(f"{MANIFEST_NAME}: profiles must be objects, and a dense model has none")
        if isinstance(rules, SoftRules):
            raise BundleError(f"{MANIFEST_NAME}: a Soft MoE has no profiles")
        name = _get(entry, "name", str)
        capacity = _get(entry, "capacity", list)
        ratio = _get(entry, "capacity_ratio", int | float)
        try:
            computed = _profile(entry, ratio, rules)
        except RoutingError as error:
            raise BundleError(f"{MANIFEST_NAME}: profile {name!r:.60}: {error}") from None
        # 1.0 and true are equal to 1 in Python, and no numbers of places.
        whole = all(type(places) is int for places in capacity)
        if not whole or tuple(capacity) != computed.slots or computed.name != name:
            raise BundleError(
                f"{MANIFEST_NAME}: profile {name!r:.60} says capacity {capacity!r:.60}, "
                f"but its setting gives {computed.name} with {computed.slots[0]} places per expert in each of "
                f"{layers} MoE layers"
            )
        if name in profiles:
            raise BundleError(f"{MANIFEST_NAME}: there are two profiles {name!r}")
        profiles[name] = computed
    if rules is not None and not profiles and not isinstance(rules, SoftRules):
        raise BundleError(f"{MANIFEST_NAME}: a sparse model needs at least one profile")
    return profiles


def _profile(entry: dict[str, Any], ratio: float, rules: TopKRules | ExpertsChoiceRules) -> Profile:
    """The profile that an entry's setting gives."""
    if isinstance(rules, ExpertsChoiceRules):
        _none_of(entry, "experts choice", *SETTINGS[1:])
        return rules.profile(ratio)
    k, bpr = _positive(entry, "k", _MAX_EXPERTS), _get(entry, "bpr", bool)
    if not rules.has_policies:
        _none_of(entry, "this graph", *POLICIES)
        return rules.profile(ratio, k, bpr)
    return rules.profile(ratio, k, bpr, _get(entry, "pool", bool), _positive(entry, "max_experts", rules.num_experts))


def _files(entries: dict[str, Any]) -> dict[str, FileRecord]:
    files = {}
    for name, entry in entries.items():
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            raise BundleError(f"{MANIFEST_NAME}: {name!r:.60} is not a file name that a bundle may hold")
        if not isinstance(entry, dict) or not _SHA256.fullmatch(_get(entry, "sha256", str)):
            raise BundleError(f"{MANIFEST_NAME}: '{name}' has no SHA-256")
        files[name] = FileRecord(entry["sha256"], _positive(entry, "bytes", _MAX_FILE_BYTES))
    for name in (WEIGHTS_NAME, CANONICAL_GRAPH, INLINED_GRAPH):
        if name not in files:
            raise BundleError(f"{MANIFEST_NAME}: the bundle has no {name}")
    return files


def _tensorrt(entry: dict[str, Any] | None, keys: Set[str], files: Mapping[str, FileRecord]) -> TensorRtGraphs | None:
    if entry is None:
        return None
    precision = cast(TensorRtPrecision, _choice(entry, "precision", "fp32", "fp16", "bf16"))
    graphs = _get(entry, "graphs", dict)
    if not graphs:
        raise BundleError(f"{MANIFEST_NAME}: 'tensorrt' names no graphs")
    for name, graph in graphs.items():
        if name not in keys:
            raise BundleError(f"{MANIFEST_NAME}: 'tensorrt' has a graph for {name!r:.60}, and there is no such profile")
        if not isinstance(graph, str) or graph not in files or not graph.endswith(".onnx"):
            raise BundleError(f"{MANIFEST_NAME}: 'tensorrt' names {graph!r:.60}, which is no graph file of the bundle")
    if len(set(graphs.values())) < len(graphs):
        raise BundleError(f"{MANIFEST_NAME}: 'tensorrt' names one file for two profiles")
    return TensorRtGraphs(precision, MappingProxyType(graphs))


def _get(mapping: Mapping[str, Any], key: str, kind: type | UnionType) -> Any:
    value = mapping.get(key)
    # A bool is an int to Python, never to a manifest.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BundleError(f"{MANIFEST_NAME}: '{key}' is missing or of the wrong type")
    return value


def _positive(mapping: Mapping[str, Any], key: str, limit: int) -> int:
    value: int = _get(mapping, key, int)
    if not 1 <= value <= limit:
        raise BundleError(f"{MANIFEST_NAME}: '{key}' is {value!s:.40}, which is out of range, 1 to {limit}")
    return value


def _only(mapping: Mapping[str, Any], key: str, value: str) -> None:
    """Refuses another value; the field may be left out."""
    _choice({key: value, **mapping}, key, value)


def _choice(mapping: Mapping[str, Any], key: str, *choices: str) -> str:
    value = mapping.get(key)
    if value not in choices:
        raise BundleError(f"{MANIFEST_NAME}: '{key}' is {value!r:.60}, not one of {', '.join(choices)}")
    return cast(str, value)
