"""The table of ops as a C++ header, which the op libraries and the TensorRT plugin share.

After a change of the table: `python -m vmoe_export.ops.cpp_declarations > plugins/ops/op_table.h`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vmoe_export.ops.table import ATTRIBUTE_RULES, ELEMENT_TYPES, OPS, ElementType, Op, Value, ValueType
from vmoe_runtime.profiles import OFFICIAL_SETTINGS, POLICIES

_ELEMENTS: Mapping[ElementType, str] = {
    "float": "Float32",
    "fp16": "Float16",
    "bf16": "Bfloat16",
    "i8": "Int8",
    "i32": "Int32",
    "i64": "Int64",
}
_VARIABLES: tuple[ValueType, ...] = ("W", "T", "R")
_MOST_CHOICES = 64
"""The bits in which C++ keeps the choices that are left."""

_HEAD = """\
// The ops of the domain vmoe, as exporter/vmoe_export/ops/table.py declares them. Written by
//
//   python -m vmoe_export.ops.cpp_declarations > plugins/ops/op_table.h
//
// clang-format off
#pragma once

#include <cstddef>

#include "ops/op_spec.h"

namespace vmoe::ops {
"""


def header() -> str:
    """The text of plugins/ops/op_table.h: for each op its specification and the indices of what it has.

    Ops with the same choices of types share these, under the name of the first.

    Raises:
        KeyError: an attribute without a rule.
        ValueError: an op with more choices of types than C++ counts, or with int64 inputs that are neither the routing
            settings nor the policies.
    """
    ops = list(OPS.values())
    lines = [_HEAD]
    names: dict[tuple[str, ...], str] = {}
    for op in ops:
        choices = _choices(op)
        if choices not in names:
            names[choices] = f"k{_short(op)}Choices"
            lines += [*_array("TypeChoice", names[choices], choices), ""]
        lines += [*_declaration(op, names[choices]), ""]
    lines += [
        "// The most inputs that an op has.",
        f"inline constexpr size_t kMaxInputs = {max(len(op.inputs) for op in ops)};",
        "",
        "// X(name, Name) for each op.",
        f"#define VMOE_FOR_EACH_OP(X) {' '.join(f'X({op.function_name}, {_short(op)})' for op in ops)}",
        "",
        "}  // namespace vmoe::ops",
    ]
    return "\n".join(lines) + "\n"


def _declaration(op: Op, choices: str) -> Iterator[str]:
    """The lines of an op; `choices` is the name of its array of types."""
    settings, policies = (
        tuple(value.name for value in op.inputs if value.type == "i64" and value.optional is optional)
        for optional in (False, True)
    )
    for found, known in ((settings, ((), OFFICIAL_SETTINGS[:1], OFFICIAL_SETTINGS)), (policies, ((), POLICIES))):
        if found not in known:
            raise ValueError(f"{op.name} has the int64 inputs {', '.join(found)}, not {', '.join(known[-1])}")
    space = op.function_name
    yield f"namespace {space} {{"
    yield from _constants("Input", [value.name for value in op.inputs])
    yield from _constants("Output", [value.name for value in op.outputs])
    yield from _array("ValueSpec", "kInputs", [_value(value, op) for value in op.inputs])
    yield from _array("ValueSpec", "kOutputs", [_value(value, op) for value in op.outputs])
    if op.attributes:
        yield from _constants("Attribute", op.attributes)
        rows = [_attribute(name, default) for name, default in op.attributes.items()]
        yield from _array("AttributeSpec", "kAttributes", rows)
    yield f"}}  // namespace {space}"
    attributes = f"{space}::kAttributes" if op.attributes else "{}"
    fields = [f'"{op.name}"', f"{space}::kInputs", f"{space}::kOutputs", attributes, choices]
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
    presence = "Required"
    if value.scale_of:
        presence = "Scale"
    elif value.type == "i64":
        presence = "Policy" if value.optional else "Setting"
    elif value.optional:
        presence = "Optional"
    scales = [f"Input::{_constant(scale.name)}" for scale in op.inputs if scale.scale_of == value.name]
    fields = [f'"{value.name}"', _value_type(value.type), f'"{"".join(value.dims)}"']
    if presence != "Required" or scales:
        fields.append(f"Presence::k{presence}")
    return f"{{{', '.join([*fields, *scales])}}}"


def _attribute(name: str, default: int) -> str:
    rule = ATTRIBUTE_RULES[name]
    maximum = "kNoMaximum" if rule.maximum is None else str(rule.maximum)
    divides = f"'{rule.divides}'" if rule.divides else "0"
    return f'{{"{name}", {default}, {rule.minimum}, {maximum}, {divides}, {str(rule.only_i8).lower()}}}'


def _choices(op: Op) -> tuple[str, ...]:
    if len(op.type_choices) > _MOST_CHOICES:
        raise ValueError(f"{op.name} takes {len(op.type_choices)} choices of types, and C++ counts {_MOST_CHOICES}")
    return tuple(_choice([choice.get(name, ELEMENT_TYPES[name][0]) for name in _VARIABLES]) for choice in op.type_choices)


def _choice(types: Iterable[ElementType]) -> str:
    return f"{{{', '.join(f'ElementType::k{_ELEMENTS[element]}' for element in types)}}}"


def _value_type(name: ValueType) -> str:
    return f"ValueType::k{name if name in _VARIABLES else _ELEMENTS[ELEMENT_TYPES[name][0]]}"


def _short(op: Op) -> str:
    return op.name.removeprefix("Vmoe")


def _constant(name: str) -> str:
    return "k" + "".join(word.capitalize() for word in name.split("_"))


if __name__ == "__main__":
    sys.stdout.write(header())
