"""What Python and C++ must agree on, as C++ headers: the table of ops, and the rules that both readers of bundles keep to.

After a change of what they declare: `python tools/cpp_headers.py`, which writes what `headers` lists. The settings of a
call are in `cpp_settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cpp_settings

from vmoe_export.ops.table import ATTRIBUTE_RULES, ELEMENT_TYPES, OPS, ElementType, Op, Value, ValueType
from vmoe_runtime import images, picture_files, pictures, preprocessing, profiles, routing_kinds
from vmoe_runtime.bundle import external_data, manifest, manifest_fields, strict_json
from vmoe_runtime.bundle.manifest_fields import Field
from vmoe_runtime.settings import ROWS, SETTINGS
from vmoe_serve import elastic, endpoints
from vmoe_tools import options

PLUGINS = Path(__file__).parents[1] / "plugins"
_ELEMENTS: Mapping[ElementType, str] = {
    "float": "Float32",
    "fp16": "Float16",
    "bf16": "Bfloat16",
    "i8": "Int8",
    "i4": "Int4",
    "i32": "Int32",
    "i64": "Int64",
}
_CONSTANTS = (
    ("char", manifest, "FORMAT MANIFEST_NAME WEIGHTS_NAME CANONICAL_GRAPH INLINED_GRAPH MERGING_GRAPH IMAGE_INPUT"),
    ("char", manifest_fields, "FILE_PATTERN SHA256_PATTERN BLOCK_PATTERN GROUP_PATTERN"),
    ("char", preprocessing, "_STEP_PATTERN _KNOWN_STEPS"),
    ("const char*", manifest, "PRECISIONS OUTPUTS"),
    ("const char*", routing_kinds, "ROUTING_KINDS"),
    ("const char*", routing_kinds, "SETTING_KINDS"),
    ("int64_t", manifest, "FORMAT_VERSION"),
    ("size_t", manifest_fields, "MAX_MANIFEST_BYTES MAX_GRAPH_BYTES MAX_MOE_LAYERS MAX_NAME"),
    ("int", strict_json, "MAX_JSON_DEPTH"),
    ("int", external_data, "MAX_GRAPH_DEPTH"),
    ("uint64_t", external_data, "MAX_OPSET"),
    ("size_t", external_data, "MAX_BYTE_DIGITS"),
    ("int64_t", profiles, "MAX_MASS_TOKENS _SMALL_GROUP"),
    ("size_t", preprocessing, "MAX_STEPS"),
    ("int64_t", preprocessing, "MAX_SIDE MAX_RESIZED_SIDE MAX_PILLOW_PIXELS"),
    ("double", elastic, "SAFETY_MARGIN UTILIZATION_LIMIT HEADROOM MEMORY COOLDOWN _LEARNED _DRIFT _LEAST_SCALE _MOST_SCALE"),
    ("size_t", elastic, "_MOST_LEVELS"),
    ("int64_t", elastic, "_MOST_IMAGES"),
    ("double", elastic, "_LONGEST_SECONDS"),
)
"""C++ type, the module of the constants, and their names."""
_SERVICE_CONSTANTS = (
    ("char", endpoints, "JSON BINARY PROMETHEUS HEADER_LENGTH INPUT_NAME NAME_PATTERN"),
    ("size_t", endpoints, "MAX_NAME LARGE_PICTURE"),
    ("int64_t", endpoints, "MAX_WHOLE"),
    ("size_t", pictures, "_MOST_PIXELS"),
    ("int", picture_files, "_MOST_SCANS _MOST_PARTS"),
    ("float", images, "_LARGEST_FLOAT"),
    ("double", endpoints, "MAX_SLO_MS"),
    ("int", options, "_STEPS _MOST_STEPS"),
)
_VARIABLES: tuple[ValueType, ...] = ("W", "Q", "T")
_MOST_CHOICES = 64
"""The bits in which C++ keeps the choices that are left."""

_OP_HEAD = """\
// The ops of the domain vmoe, as exporter/vmoe_export/ops/table.py declares them. Written by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>

#include "ops/op_spec.h"

namespace vmoe::ops {
"""
_BUNDLE_HEAD = """\
// What both readers of bundles, and elastic capacity in both languages, keep to, as vmoe_runtime and vmoe_serve declare
// it. Written by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>

#include "sdk/fields.h"

namespace vmoe::sdk {
"""
_SERVICE_HEAD = """\
// What the HTTP services in C++ and in Python share, as runtime/vmoe_serve/endpoints.py declares it. Written by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>

#include "table.h"
"""


def op_table() -> str:
    """The text of plugins/ops/op_table.h: the settings, and for each op its specification and the indices of what it has.

    Ops with the same inputs, outputs or attributes share these, under the name of the first.

    Raises:
        KeyError: an attribute without a rule.
        ValueError: more choices of types than C++ counts, or an int64 input that is no setting.
    """
    ops = list(OPS.values())
    lines = [_OP_HEAD, *_constants("Setting", SETTINGS), *_array("SettingSpec", "kSettings", [*map(_setting, SETTINGS)])]
    choices = list(dict.fromkeys(choice for op in ops for choice in _choices(op)))
    if len(choices) > _MOST_CHOICES:
        raise ValueError(f"ops take {len(choices)} choices of types, and C++ counts {_MOST_CHOICES}")
    lines += ["// What W, Q and T may be.", *_array("TypeChoice", "kTypeChoices", choices)]
    first_with: dict[tuple[str, ...], str] = {}
    for op in ops:
        taken = sum(1 << choices.index(choice) for choice in _choices(op))
        lines += _declaration(op, taken, first_with)
    lines += [
        "",
        "// The most inputs and outputs that an op has.",
        f"inline constexpr size_t kMaxInputs = {max(len(op.inputs) for op in ops)};",
        f"inline constexpr size_t kMaxOutputs = {max(len(op.outputs) for op in ops)};",
        "",
        "}  // namespace vmoe::ops",
    ]
    return "\n".join(lines) + "\n"


def _declaration(op: Op, choices: int, first_with: dict[tuple[str, ...], str]) -> Iterator[str]:
    """The lines of an op; `choices` has a bit for each of its choices of types, `first_with` the first op with these inputs,
    outputs or attributes.
    """
    for value in op.inputs:
        if value.type == "i64" and value.name not in SETTINGS:
            raise ValueError(f"{op.name} has the int64 input {value.name}, none of the settings {', '.join(SETTINGS)}")
    space = op.function_name
    parts = {
        "Input": {value.name: _value(value, op) for value in op.inputs},
        "Output": {value.name: _value(value, op) for value in op.outputs},
        "Attribute": {name: _attribute(name, default) for name, default in op.attributes.items()},
    }
    yield f"namespace {space} {{"
    for kind, rows in parts.items():
        first = first_with.setdefault((kind, *rows.values()), space)
        if first != space and rows:
            yield f"using {first}::{kind}, {first}::k{kind}s;"
        elif rows:
            yield from _constants(kind, rows)
            yield from _array("AttributeSpec" if kind == "Attribute" else "ValueSpec", f"k{kind}s", list(rows.values()))
    yield f"}}  // namespace {space}"
    fields = [f'"{op.name}"', *(f"{space}::k{kind}s" if rows else "{}" for kind, rows in parts.items()), hex(choices)]
    yield f"inline constexpr OpSpec k{_short(op)}{{{', '.join(fields)}}};"


def _array(specification: str, name: str, rows: Sequence[str]) -> Iterator[str]:
    if len(rows) == 1:
        yield f"inline constexpr {specification} {name}[] = {{{rows[0]}}};"
        return
    yield f"inline constexpr {specification} {name}[] = {{"
    yield from (f"    {row}," for row in rows)
    yield "};"


def _constants(kind: str, names: Iterable[str]) -> Iterator[str]:
    yield f"struct {kind} {{ enum : size_t {{ {', '.join(map(_constant, names))} }}; }};"


def _value(value: Value, op: Op) -> str:
    is_setting = value.type == "i64"
    presence = "Scale" if value.scale_of else "Optional" if value.optional else "Setting" if is_setting else "Required"
    scale = next((f"Input::{_constant(other.name)}" for other in op.inputs if other.scale_of == value.name), "kNoScale")
    fields = [
        f'"{value.name}"',
        _value_type(value.type),
        f'"{"".join(value.dims)}"',
        f"Presence::k{presence}",
        scale,
        f'"{"".join(value.grouped_dims)}"' if value.grouped_dims else "nullptr",
        f"Setting::{_constant(value.name)}" if is_setting else "kNoSetting",
    ]
    defaults = ["", "", "", "Presence::kRequired", "kNoScale", "nullptr", "kNoSetting"]
    # Fields at the end that have their default are left out.
    while fields[-1] == defaults[len(fields) - 1]:
        fields.pop()
    return f"{{{', '.join(fields)}}}"


def _setting(name: str) -> str:
    row = ROWS[name]
    # The most depends on the sizes of a call. The number of slots, which `capacity` is here, and k are 1 or more.
    least = 0 if row.type == "flag" else row.range[0] if row.range else 1
    return f'{{"{name}", {least}, {_maximum(1 if row.type == "flag" else None)}}}'


def _attribute(name: str, default: int) -> str:
    rule = ATTRIBUTE_RULES[name]
    maximum = _maximum(rule.maximum)
    divides = f"'{rule.divides}'" if rule.divides else "0"
    return f'{{"{name}", {default}, {rule.minimum}, {maximum}, {divides}, {str(rule.only_quantized).lower()}}}'


def _maximum(value: int | None) -> str:
    return "kNoMaximum" if value is None else str(value)


def _choices(op: Op) -> tuple[str, ...]:
    rows = ([_ELEMENTS[choice.get(name, ELEMENT_TYPES[name][0])] for name in _VARIABLES] for choice in op.type_choices)
    return tuple(f"{{{', '.join(f'ElementType::k{element}' for element in row)}}}" for row in rows)


def _value_type(name: ValueType) -> str:
    return f"ValueType::k{name if name in _VARIABLES else _ELEMENTS[ELEMENT_TYPES[name][0]]}"


def _short(op: Op) -> str:
    return op.name.removeprefix("Vmoe")


def _constant(name: str) -> str:
    return "k" + "".join(word.capitalize() for word in re.split("[-_]", name))


def bundle_rules() -> str:
    """The text of plugins/sdk/generated/bundle_rules.h: names, limits, fields of a manifest, constants of elastic.py."""
    lines = [_BUNDLE_HEAD, *_declared(_CONSTANTS)]
    kinds = ", ".join(f"{_constant(f'of-{kind}')} = {1 << i}" for i, kind in enumerate(routing_kinds.SETTING_KINDS))
    lines += ["", f"enum : unsigned {{ {kinds} }};", ""]
    for name in ("MANIFEST", "KIND", "PROFILE", "FILE"):
        fields: tuple[Field, ...] = getattr(manifest_fields, f"{name}_FIELDS")
        lines += [*_array("Field", f"k{name.capitalize()}Fields", [_field(field) for field in fields]), ""]
    messages = external_data.MESSAGES
    lines += [
        "// The messages of an ONNX model that lead to tensors and operator sets.",
        f"enum class Message {{ {', '.join(map(_constant, messages))} }};",
        "struct ChildMessage { Message parent; uint32_t field; Message message; };",
    ]
    children = [
        f"{{Message::{_constant(parent)}, {number}, Message::{_constant(child)}}}"
        for parent, inside in messages.items()
        for number, child in inside.items()
    ]
    lines += [*_array("ChildMessage", "kChildMessages", children), "", "}  // namespace vmoe::sdk"]
    return "\n".join(lines) + "\n"


def service_table() -> str:
    """The text of plugins/service/generated/endpoints.h: routes, fields of requests, refusals, options and constants."""
    lines = [_SERVICE_HEAD, *_declared(_SERVICE_CONSTANTS), ""]
    refusals = {name: value for name, value in vars(endpoints).items() if isinstance(value, endpoints.Refusal)}
    for name, refusal in refusals.items():
        lines.append(f"inline constexpr Refusal {_constant(name)}{{{refusal.status}, {json.dumps(refusal.message)}}};")
    rows = [_service_field(name, field) for name, fields in endpoints.OBJECTS.items() for field in fields]
    lines += ["", *_array("Field", "kFields", rows), ""]
    numbers = endpoints.OPTIONS
    lines.append(f"struct NumberOptions {{ int {', '.join(f'{each.name} = {each.default}' for each in numbers)}; }};")
    lines.append("struct NumberOption { const char* name; int NumberOptions::*value; int maximum; const char* help; };")
    rows = [
        f'{{"--{each.name.replace("_", "-")}", &NumberOptions::{each.name}, {each.maximum}, {json.dumps(each.help)}}}'
        for each in numbers
    ]
    lines += [*_array("NumberOption", "kNumberOptions", rows), "", "namespace endpoints {"]
    lines += [f"Response {each.name}(Service&, Exchange&);" for each in endpoints.ENDPOINTS]
    rows = [
        f'{{{json.dumps(path)}, {str(each.method == "POST").lower()}, "{each.label}", endpoints::{each.name}}}'
        for each in endpoints.ENDPOINTS
        for path in each.paths
    ]
    lines += ["}  // namespace endpoints", *_array("Route", "kRoutes", rows)]
    return "\n".join(lines) + "\n"


def _service_field(name: str, field: endpoints.Field) -> str:
    is_object = field.type in endpoints.OBJECTS
    texts = [name, field.name, field.type if is_object else "", json.dumps(field.default), field.takes]
    fewest, most = field.items or (0, 0)
    flags = [str(flag).lower() for flag in (field.required, field.in_query, name in endpoints.EXACT_OBJECTS)]
    kind = f"FieldType::{_constant('object' if is_object else field.type)}"
    numbers = map(str, (field.minimum, fewest, most))
    return f"{{{', '.join([_texts(texts), kind, *numbers, *flags])}, {{{_texts(field.choices)}}}}}"


def _declared(constants: Iterable[tuple[str, Any, str]]) -> Iterator[str]:
    for kind, module, names in constants:
        for name in names.split():
            declared = _constant(name) + ("[]" if "char" in kind else "")
            yield f"inline constexpr {kind} {declared} = {_literal(getattr(module, name))};"


def _literal(value: Any) -> str:
    if isinstance(value, re.Pattern):
        value = re.sub(r"\?P<\w+>", "", value.pattern)
    return f"{{{_texts(value)}}}" if isinstance(value, tuple) else json.dumps(value)


def _field(field: Field) -> str:
    parent, _, key = field.path.rpartition(".")
    kinds = "~0U" if field.kinds == routing_kinds.SETTING_KINDS else " | ".join(_constant(f"of-{k}") for k in field.kinds)
    kind = f"FieldType::{_constant(field.type)}"
    parts = [json.dumps(parent), json.dumps(key), kind, field.most, json.dumps(field.optional), kinds]
    return f"{{{', '.join(map(str, parts))}, {{{_texts(field.choices)}}}}}"


def _texts(words: Iterable[str]) -> str:
    return ", ".join(map(json.dumps, words))


def headers() -> dict[Path, str]:
    """The text of each header, by its path."""
    public, internal = PLUGINS / "include" / "vmoe", PLUGINS / "sdk" / "generated"
    return {
        PLUGINS / "ops" / "op_table.h": op_table(),
        internal / "bundle_rules.h": bundle_rules(),
        PLUGINS / "service" / "generated" / "endpoints.h": service_table(),
        internal / "setting_rows.h": cpp_settings.rows_header(),
        public / "settings.h": cpp_settings.c_header(),
        public / "settings.hpp": cpp_settings.cpp_header(),
    }


if __name__ == "__main__":
    for path, text in headers().items():
        path.write_text(text)
