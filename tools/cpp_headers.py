"""Generate the C++ headers that contain the declarations shared by Python and C++.

The declarations are the op table, and the rules for bundles, settings and services. After changing the Python declarations,
run `python tools/cpp_headers.py`. The program writes the files that `headers` returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from vmoe_export.ops.table import ATTRIBUTE_RULES, CPP_TYPES, ELEMENT_TYPES, OPS, Op, Value, ValueType
from vmoe_runtime import (
    images,
    picture_files,
    pictures,
    precisions,
    preprocessing,
    processors,
    resampling,
    routing_kinds,
    routing_rules,
    settings,
)
from vmoe_runtime.bundle import external_data, manifest, manifest_fields, strict_json
from vmoe_runtime.bundle.manifest_fields import Field
from vmoe_runtime.settings import EXPERT_LIMIT, ROWS, SETTINGS, SettingRow
from vmoe_serve import elastic, endpoints, metrics, openapi
from vmoe_tools import options

PLUGINS = Path(__file__).parents[1] / "plugins"
_CONSTANTS: Mapping[str, tuple[ModuleType, ...]] = {
    "[A-Z].*|.*_PATTERN": (manifest, precisions, manifest_fields, preprocessing, routing_kinds, strict_json, external_data),
    "MAX_.*|_SMALL_GROUP": (routing_rules, processors),
    "_LARGEST_FLOAT|GREY_WEIGHTS|PROFILE_PATTERN": (images, resampling, settings),
    ".*": (elastic,),
}
"""The Python constants that C++ shares: modules, by a pattern of names in upper case. The values are strings, numbers, or
tuples of them."""
_SERVICE_CONSTANTS: Mapping[str, tuple[ModuleType, ...]] = {
    "(?!PICTURE)[A-Z].*": (endpoints, metrics),
    "_MOST_(PIXELS|SCANS|PARTS)|_LARGEST_FLOAT|_STEPS|_MOST_STEPS": (pictures, picture_files, images, options),
    "ROTATION|GREY_WEIGHTS": (preprocessing, resampling),
}
_PYTHON_ONLY = ("EXACTNESS", "EXPERT_LIMIT", "ROUNDINGS", "TENSORRT_PRECISIONS", "TOKEN_OUTPUT", "MANY_BODIES")
_CODES: Mapping[str, Sequence[str]] = {
    "output": manifest.OUTPUTS,
    "precision": precisions.PRECISIONS,
    "probabilities": manifest.PROBABILITIES,
    "routing_kind": routing_kinds.ROUTING_KINDS,
}
"""The strings in manifests that have an enum in the C API, by the enum's name without `vmoe_`."""
_TYPES: Mapping[type, str] = {str: "char", re.Pattern: "char", int: "int64_t", float: "double"}
_VARIABLES: tuple[ValueType, ...] = ("W", "Q", "T")
_MOST_CHOICES = 64
"""The number of bits in the mask of type choices in C++."""

_OP_HEAD = """\
// The ops of the domain vmoe. Generated from exporter/vmoe_export/ops/table.py by
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
// The rules of bundles and of elastic capacity that Python and C++ share. Generated from vmoe_runtime and vmoe_serve by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>

#include "sdk/field_row.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {
"""
_SERVICE_HEAD = """\
// The endpoints and metrics of both HTTP services. Generated from endpoints.py and metrics.py in runtime/vmoe_serve by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>

#include "table.h"
"""

_C_TYPES = {"ratio": "double", "whole": "int64_t", "flag": "int32_t"}
_GENERATED = "Generated from vmoe_runtime/settings.py by\n{0}\n{0}   python tools/cpp_headers.py"

_C_HEAD = f"""\
/* The settings of a call. {_GENERATED.format(" *")}
 */
/* clang-format off */
#ifndef VMOE_SETTINGS_H_
#define VMOE_SETTINGS_H_

#include <stddef.h>
#include <stdint.h>

/* NOLINTBEGIN(modernize-*): this is C. */
"""
_CPP_HEAD = f"""\
// The settings of a call as plain C++ values. {_GENERATED.format("//")}
// clang-format off
#ifndef VMOE_SETTINGS_HPP_
#define VMOE_SETTINGS_HPP_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmoe/settings.h"

namespace vmoe {{
"""
_ROWS_HEAD = f"""\
// The settings of a call. {_GENERATED.format("//")}
// clang-format off
#pragma once

#include "sdk/setting_row.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {{
"""


def op_table() -> str:
    """Return the text of plugins/ops/op_table.h, which contains the settings and the ops.

    For each op, the header contains the specifications and the indices of its inputs, outputs and attributes. Ops with the
    same inputs, outputs or attributes share one table. The table is named after the first of these ops.

    Raises:
        KeyError: an attribute has no rule.
        ValueError: there are more type choices than bits in C++'s mask, or an int64 input is not a setting.
    """
    ops = list(OPS.values())
    lines = [_OP_HEAD, *_constants("Setting", SETTINGS), *_array("SettingSpec", "kSettings", [*map(_setting, SETTINGS)])]
    choices = list(dict.fromkeys(choice for op in ops for choice in _choices(op)))
    if len(choices) > _MOST_CHOICES:
        raise ValueError(f"ops take {len(choices)} choices of types, and C++ has bits for {_MOST_CHOICES}")
    lines += ["// The element type of each value type, for each choice of W, Q and T."]
    lines += _array("TypeChoice", "kTypeChoices", choices)
    first_with: dict[tuple[str, ...], str] = {}
    for op in ops:
        mask = sum(1 << choices.index(choice) for choice in _choices(op))
        lines += _declaration(op, mask, first_with)
    lines += [
        "",
        "// The largest number of inputs that an op has, and the largest number of outputs.",
        f"inline constexpr size_t kMaxInputs = {max(len(op.inputs) for op in ops)};",
        f"inline constexpr size_t kMaxOutputs = {max(len(op.outputs) for op in ops)};",
        "",
        "}  // namespace vmoe::ops",
    ]
    return "\n".join(lines) + "\n"


def _declaration(op: Op, choices: int, first_with: dict[tuple[str, ...], str]) -> Iterator[str]:
    """Yield the lines that declare an op.

    Args:
            op: the op.
            choices: a mask with a bit for each type choice that the op accepts.
            first_with: the name of the first op that has certain inputs, outputs or attributes, by their table rows. The
            function adds the op's own rows if they are new.
    """
    for value in op.inputs:
        if value.type == "i64" and value.name not in SETTINGS:
            raise ValueError(f"{op.name} has the int64 input {value.name}, none of the settings {', '.join(SETTINGS)}")
    parts = {
        "Input": {value.name: _value(value, op) for value in op.inputs},
        "Output": {value.name: _value(value, op) for value in op.outputs},
        "Attribute": {name: _attribute(name, default) for name, default in op.attributes.items()},
    }
    fields = [f'"{op.name}"']
    yield ""
    for kind, rows in parts.items():
        first = first_with.setdefault((kind, *rows.values()), _short(op))
        if first != _short(op) and rows:
            yield f"using {_short(op)}{kind} = {first}{kind};"
        elif rows:
            yield from _constants(first + kind, rows)
            # The rows in a table refer to inputs as `Input::NAME`. The prefix with the op's name is added only at this
            # point. Otherwise, the comparison above couldn't find equal tables for different ops.
            table = [row.replace("Input::", f"{first}Input::") for row in rows.values()]
            yield from _array("AttributeSpec" if kind == "Attribute" else "ValueSpec", f"k{first}{kind}s", table)
        fields.append(f"k{first}{kind}s" if rows else "{}")
    yield f"inline constexpr OpSpec k{_short(op)}{{{', '.join([*fields, hex(choices)])}}};"


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
    # Omit trailing fields that have their default values.
    while fields[-1] == defaults[len(fields) - 1]:
        fields.pop()
    return f"{{{', '.join(fields)}}}"


def _setting(name: str) -> str:
    row = ROWS[name]
    # The maximum of a flag is 1. Any other maximum depends on the sizes in a call. In this table, `capacity` is the number
    # of slots. `capacity` and `k` are at least 1.
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
    rows = ([CPP_TYPES[choice.get(name, types[0])] for name, types in ELEMENT_TYPES.items()] for choice in op.type_choices)
    return tuple(f"{{{{{', '.join(f'ElementType::k{element}' for element in row)}}}}}" for row in rows)


def _value_type(name: ValueType) -> str:
    return f"ValueType::k{name if name in _VARIABLES else CPP_TYPES[ELEMENT_TYPES[name][0]]}"


def _short(op: Op) -> str:
    return op.name.removeprefix("Vmoe")


def _constant(name: str) -> str:
    return "k" + "".join(word.capitalize() for word in re.split("[-_]", name))


def bundle_rules() -> str:
    """Return the text of plugins/sdk/generated/bundle_rules.h.

    It contains names, limits, manifest fields and the constants in elastic.py.
    """
    lines = [_BUNDLE_HEAD, *_declared(_CONSTANTS)]
    kinds = ", ".join(f"{_constant(f'of-{kind}')} = {1 << i}" for i, kind in enumerate(routing_kinds.SETTING_KINDS))
    lines += ["", f"enum : unsigned {{ {kinds}, kOfEnd = {1 << len(routing_kinds.SETTING_KINDS)} }};"]
    routing = ", ".join(_constant(f"of-{kind}") for kind in routing_kinds.ROUTING_KINDS)
    lines += [f"inline constexpr unsigned kOfRoutingKinds[] = {{{routing}}};", ""]
    lines += ["// The enum values in engine.h, in the order of the names above.", *map(_codes, _CODES), ""]
    for name in ("MANIFEST", "KIND", "PROFILE", "FILE"):
        fields: tuple[Field, ...] = getattr(manifest_fields, f"{name}_FIELDS")
        lines += [*_array("Field", f"k{name.capitalize()}Fields", [_field(field) for field in fields]), ""]
    messages = external_data.MESSAGES
    lines += [
        "// The protobuf messages of an ONNX model that contain tensors or operator sets, directly or in child messages.",
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
    """Return the text of plugins/service/generated/endpoints.h.

    It contains routes, request fields, refusals, options and constants.
    """
    lines = [_SERVICE_HEAD, *_declared(_SERVICE_CONSTANTS), ""]
    for name, refusal in vars(endpoints).items():
        if isinstance(refusal, endpoints.Refusal) and name not in _PYTHON_ONLY:
            lines.append(f"inline constexpr Refusal {_constant(name)}{{{refusal.status}, {json.dumps(refusal.message)}}};")
    for name in ("REQUEST_SECONDS", "SERVED", "UNTURNED"):
        lines.append(f"inline constexpr Metric {_constant(name)}{{{_metric(getattr(metrics, name))}, nullptr}};")
    counts = "[](const vmoe::BatcherLoad& load) {{ return static_cast<double>(load.{}); }}"
    rows = [f"{{{_metric(metric)}, {counts.format(name)}}}" for name, (_, metric) in metrics.NUMBERS.items()]
    lines += _array("Metric", "kNumbers", rows)
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
    lines += [f"boost::asio::awaitable<Response> {each.name}(Service&, Exchange&);" for each in endpoints.ENDPOINTS]
    rows = [
        f'{{{json.dumps(path)}, {str(each.method == "POST").lower()}, "{each.label}", endpoints::{each.name}}}'
        for each in endpoints.ENDPOINTS
        for path in each.paths
    ]
    lines += ["}  // namespace endpoints", *_array("Route", "kRoutes", rows)]
    lines += ["", f"inline constexpr char kOpenApi[] = {json.dumps(json.dumps(openapi.document('{model}')))};"]
    return "\n".join(lines) + "\n"


def _codes(enum: str) -> str:
    codes = ", ".join(f"VMOE_{text.upper().replace('-', '_')}" for text in _CODES[enum])
    return f"inline constexpr vmoe_{enum} {_constant(enum)}Codes[] = {{{codes}}};"


def _metric(metric: metrics.Metric) -> str:
    return f"{_texts((metric.name, metric.help))}, {json.dumps(metric.is_gauge)}"


def batcher_load() -> str:
    """Return the text of plugins/include/vmoe/batcher_load.hpp, which contains the counts that a batcher reports."""
    types = {"int": "int64_t", "float": "double"}
    numbers = "\n".join(f"  {types[kind]} {name} = 0; // {metric.help}" for name, (kind, metric) in metrics.NUMBERS.items())
    return f"""\
// The load and the counters of a batcher. Generated from runtime/vmoe_serve/metrics.py by
//
//   python tools/cpp_headers.py
// clang-format off
#ifndef VMOE_BATCHER_LOAD_HPP_
#define VMOE_BATCHER_LOAD_HPP_

#include <cstdint>
#include <map>
#include <string>

namespace vmoe {{

// The current load of a batcher, and its counts so far.
struct BatcherLoad {{
  std::string level; // the profile for requests that specify no profile; empty if the model has no profiles
  // Images so far, by profile. Profiles that are neither in the bundle nor a level are counted as "other".
  std::map<std::string, int64_t> served;
{numbers}
}};

}}  // namespace vmoe

#endif  // VMOE_BATCHER_LOAD_HPP_
"""


def _service_field(name: str, field: endpoints.Field) -> str:
    is_object = field.type in endpoints.OBJECTS
    texts = [name, field.name, field.type if is_object else "", json.dumps(field.default), field.takes]
    fewest, most = field.items or (0, 0)
    flags = [str(flag).lower() for flag in (field.required, field.in_query, name in endpoints.EXACT_OBJECTS)]
    kind = f"FieldType::{_constant('object' if is_object else field.type)}"
    numbers = map(str, (field.minimum, fewest, most))
    return f"{{{', '.join([_texts(texts), kind, *numbers, *flags])}, {{{_texts(field.choices)}}}}}"


def _declared(constants: Mapping[str, tuple[ModuleType, ...]]) -> dict[str, None]:
    lines = {}  # a dict, so that a constant in several modules appears only once
    for names, modules in constants.items():
        for name, value in (item for module in modules for item in vars(module).items()):
            is_list = isinstance(value, tuple)
            kind = _TYPES.get(type(value[0] if is_list else value))
            if kind and name.isupper() and re.fullmatch(names, name) and name not in _PYTHON_ONLY:
                declared = f"{'const char*' if is_list and kind == 'char' else kind} {_constant(name)}"
                lines[f"inline constexpr {declared}{'[]' * (is_list or kind == 'char')} = {_literal(value)};"] = None
    return lines


def _literal(value: Any) -> str:
    if isinstance(value, re.Pattern):
        value = re.sub(r"\?P<\w+>", "", value.pattern)
    return f"{{{_texts(value)}}}" if isinstance(value, tuple) else json.dumps(value)


def _field(field: Field) -> str:
    parent, _, key = field.path.rpartition(".")
    kinds = "~0U" if field.kinds == routing_kinds.SETTING_KINDS else _kinds(field.kinds)
    kind = f"FieldType::{_constant(field.type)}"
    parts = [json.dumps(parent), json.dumps(key), kind, field.most, json.dumps(field.optional), kinds]
    return f"{{{', '.join(map(str, parts))}, {{{_texts(field.choices)}}}}}"


def _kinds(kinds: Iterable[str]) -> str:
    return " | ".join(_constant(f"of-{kind}") for kind in kinds)


def _texts(words: Iterable[str]) -> str:
    return ", ".join(map(json.dumps, words))


def _flag(row: SettingRow) -> str:
    return f"VMOE_SET_{row.stored.upper()}"


def _setting_field(row: SettingRow) -> str:
    return f"{_C_TYPES[row.type]} {row.stored};"


def _range(row: SettingRow) -> str:
    if row.type == "flag":
        return f"1: {_lowered(row.title)}, 0: {_lowered(row.off_title)}"
    if row.range is None:
        return _lowered(row.title)
    least, most = row.range
    return f"{_lowered(row.title)}, {least} {'or more' if most > EXPERT_LIMIT else f'to {most}'}"


def _lowered(text: str) -> str:
    return text if text[1:2].isupper() or text.startswith("Batch") else text[:1].lower() + text[1:]


def settings_c() -> str:
    """Return the text of plugins/include/vmoe/settings.h: flags, `vmoe_setting` and `vmoe_profile`."""
    rows = list(ROWS.values())
    zeros = ", 0" * len(rows)
    flags = ",\n".join(f"  {_flag(row)} = {1 << place}" for place, row in enumerate(rows))
    setting = "\n".join(f"  {_setting_field(row)} /* {_range(row)}; for {', '.join(row.kinds)} */" for row in rows)
    profile = "\n".join(f"  {_setting_field(row)} /* {_lowered(row.title)} */" for row in rows)
    return f"""{_C_HEAD}
enum {{
{flags}
}};

/* The setting of one call: a profile, and values that replace values of that profile. The comment of each field lists the
 * kinds of models that the field is for. Setting it for another kind is a VMOE_ROUTING_ERROR. Tokens can't be merged if
 * routing groups split images. */
typedef struct vmoe_setting {{
  size_t struct_size;
  const char* profile; /* a stored or systematic name; NULL for the engine's profile */
  int32_t set; /* VMOE_SET_* flags of the fields below that replace the profile's values; the others are ignored */
  int32_t reserved; /* 0 */
{setting}
}} vmoe_setting;

#define VMOE_SETTING_INIT {{sizeof(vmoe_setting), NULL, 0, 0{zeros}}}

/* A complete setting of one model. Fields that the model's routing kind does not use are 0. */
typedef struct vmoe_profile {{
  size_t struct_size;
  char name[64]; /* such as "c0.3-k1", "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; with expert choice "c1.0" */
  int32_t set; /* VMOE_SET_* bits of the settings that the model's routing kind has */
  int32_t reserved; /* 0 */
  double effective_ratio; /* the capacity ratio C after rounding to whole slots, as the mean over the MoE layers */
{profile}
}} vmoe_profile;

#define VMOE_PROFILE_INIT {{sizeof(vmoe_profile), {{0}}, 0, 0, 0{zeros}}}

/* NOLINTEND(modernize-*) */

#endif /* VMOE_SETTINGS_H_ */
"""


def settings_cpp() -> str:
    """Return the text of plugins/include/vmoe/settings.hpp.

    It contains `Setting` and `Profile`, and converts them to and from C structs.
    """
    rows = list(ROWS.values())
    values = {"ratio": "double", "whole": "int64_t", "flag": "bool"}
    setting = "\n".join(f"  std::optional<{values[row.type]}> {row.stored}; // {_lowered(row.title)}" for row in rows)
    profile = "\n".join(f"  {values[row.type]} {row.stored} = {{}}; // {_lowered(row.title)}" for row in rows)
    given = "\n".join(f"  set(setting.{row.stored}, {_flag(row)}, c.{row.stored});" for row in rows)
    own = "\n".join(f"    if ((set & {_flag(row)}) != 0) setting.{row.stored} = {row.stored};" for row in rows)
    taken = "\n".join(f"  profile.{row.stored} = c.{row.stored}{' != 0' if row.type == 'flag' else ''};" for row in rows)
    return f"""{_CPP_HEAD}
// The setting of one call: a profile, and values that replace values of that profile. If all fields are empty, the
// engine's profile applies. The comments of vmoe_setting list the kinds of models that each value is for.
struct Setting {{
  std::optional<std::string> profile;
{setting}
}};

// One complete set of settings for a model. Fields that the model's routing kind does not use are 0 or false.
struct Profile {{
  std::string name;
  double effective_ratio = 0; // the capacity ratio C after rounding to whole slots
  std::vector<int64_t> slots; // for each MoE layer, the slots per expert and group
  int32_t set = 0; // VMOE_SET_* bits of the settings that the model's routing kind has
{profile}

  // Returns these values as a setting without a profile name, so that a call has no name to parse.
  Setting setting() const {{
    Setting setting;
{own}
    return setting;
  }}
}};

namespace internal {{

// Converts a setting. The result points into `setting`.
inline vmoe_setting c_setting(const Setting& setting) {{
  vmoe_setting c = VMOE_SETTING_INIT;
  c.profile = setting.profile ? setting.profile->c_str() : nullptr;
  // The C API would ignore everything after a zero byte. A name with a zero byte is therefore replaced by a name that
  // the C API refuses.
  if (setting.profile && setting.profile->find('\\0') != std::string::npos) c.profile = "a name with a zero byte";
  const auto set = [&c](const auto& value, int32_t flag, auto& field) {{
    if (!value) return;
    c.set |= flag;
    field = *value;
  }};
{given}
  return c;
}}

inline Profile profile(const vmoe_profile& c, std::vector<int64_t> slots) {{
  Profile profile;
  profile.name = c.name;
  profile.effective_ratio = c.effective_ratio;
  profile.slots = std::move(slots);
  profile.set = c.set;
{taken}
  return profile;
}}

}}  // namespace internal

}}  // namespace vmoe

#endif  // VMOE_SETTINGS_HPP_
"""


def setting_rows() -> str:
    """Return the text of plugins/sdk/generated/setting_rows.h.

    The file contains the rows for the settings. It also contains a function that visits each row together with the setting's
    fields in the C structs.
    """
    rows = list(ROWS.values())
    table = "\n".join(f"  {_setting_row(row)}," for row in rows)
    visits = "\n".join(
        f"  visit(kSettingRows[{place}], &vmoe_setting::{row.stored}, &vmoe_profile::{row.stored});"
        for place, row in enumerate(rows)
    )
    return f"""{_ROWS_HEAD}
inline constexpr SettingRow kSettingRows[] = {{
{table}
}};

// Calls visit(row, &vmoe_setting::FIELD, &vmoe_profile::FIELD) for each setting, in the order of a graph's inputs.
template <typename Visit>
void for_each_setting(Visit&& visit) {{
{visits}
}}

}}  // namespace vmoe::sdk
"""


def _setting_row(row: SettingRow) -> str:
    least, most = (0, 1) if row.type == "flag" else row.range or (0, 0)
    needed = row.default is None
    fields = [
        f"{json.dumps(row.name)}, {json.dumps(row.stored)}, {json.dumps(row.suffix)}",
        f"SettingType::k{row.type.capitalize()}, {_flag(row)}, {_kinds(row.kinds)}",
        f"{json.dumps(needed)}, {int(row.default or 0)}, {least}, {most}, {json.dumps(row.merging)}",
    ]
    return f"{{{', '.join(fields)}}}"


def headers() -> dict[Path, str]:
    """Return the text of each header, by the header's path."""
    public, internal = PLUGINS / "include" / "vmoe", PLUGINS / "sdk" / "generated"
    return {
        PLUGINS / "ops" / "op_table.h": op_table(),
        internal / "bundle_rules.h": bundle_rules(),
        PLUGINS / "service" / "generated" / "endpoints.h": service_table(),
        internal / "setting_rows.h": setting_rows(),
        public / "batcher_load.hpp": batcher_load(),
        public / "settings.h": settings_c(),
        public / "settings.hpp": settings_cpp(),
    }


if __name__ == "__main__":
    for path, text in headers().items():
        path.write_text(text)
