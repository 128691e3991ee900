"""The settings of a call for C and C++, from their rows in `vmoe_runtime.settings`: the public structs and flags, and the
table that the SDK's rules, names and checks go by.
"""

from __future__ import annotations

import json
import re

from vmoe_runtime.settings import EXPERT_LIMIT, ROWS, SettingRow

_TYPES = {"ratio": "double", "whole": "int64_t", "flag": "int32_t"}
_WRITTEN = "vmoe_runtime/settings.py declares them. Written by\n{0}\n{0}   python tools/cpp_headers.py"

C_HEAD = f"""\
/* The settings of a call, as {_WRITTEN.format(" *")}
 */
/* clang-format off */
#ifndef VMOE_SETTINGS_H_
#define VMOE_SETTINGS_H_

#include <stddef.h>
#include <stdint.h>

/* NOLINTBEGIN(modernize-*): this is C. */
"""
CPP_HEAD = f"""\
// The settings of a call as plain C++ values, as {_WRITTEN.format("//")}
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
ROWS_HEAD = f"""\
// The settings of a call, as {_WRITTEN.format("//")}
// clang-format off
#pragma once

#include "sdk/setting.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {{
"""


def _flag(row: SettingRow) -> str:
    return f"VMOE_SET_{row.stored.upper()}"


def _field(row: SettingRow) -> str:
    return f"{_TYPES[row.type]} {row.stored};"


def _range(row: SettingRow) -> str:
    if row.type == "flag":
        return f"1: {_lowered(row.title)}, 0: {_lowered(row.off_title)}"
    if row.range is None:
        return _lowered(row.title)
    least, most = row.range
    return f"{_lowered(row.title)}, {least} {'or more' if most > EXPERT_LIMIT else f'to {most}'}"


def _lowered(text: str) -> str:
    return text if text[1:2].isupper() or text.startswith("Batch") else text[:1].lower() + text[1:]


def c_header() -> str:
    """The text of plugins/include/vmoe/settings.h: flags, `vmoe_setting` and `vmoe_profile`."""
    rows = list(ROWS.values())
    zeros = ", 0" * len(rows)
    flags = ",\n".join(f"  {_flag(row)} = {1 << place}" for place, row in enumerate(rows))
    setting = "\n".join(f"  {_field(row)} /* {_range(row)}; of {', '.join(row.kinds)} */" for row in rows)
    profile = "\n".join(f"  {_field(row)} /* {_lowered(row.title)} */" for row in rows)
    return f"""{C_HEAD}
enum {{
{flags}
}};

/* The routing setting of one call: a profile, and what to replace in it. A model has those settings that name its kind;
 * others are a VMOE_ROUTING_ERROR. No model merges tokens if groups cut an image. */
typedef struct vmoe_setting {{
  size_t struct_size;
  const char* profile; /* a stored or systematic name; NULL is the engine's */
  int32_t set; /* VMOE_SET_* of the fields below that replace the profile's; others are not read */
  int32_t reserved; /* 0 */
{setting}
}} vmoe_setting;

#define VMOE_SETTING_INIT {{sizeof(vmoe_setting), NULL, 0, 0{zeros}}}

/* A complete setting of one model. What its kind does not have is 0. */
typedef struct vmoe_profile {{
  size_t struct_size;
  char name[64]; /* such as "c0.3-k1", "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; with experts choice "c1.0" */
  double effective_ratio; /* C after rounding to whole slots, the mean over the MoE layers */
{profile}
}} vmoe_profile;

#define VMOE_PROFILE_INIT {{sizeof(vmoe_profile), {{0}}, 0{zeros}}}

/* NOLINTEND(modernize-*) */

#endif /* VMOE_SETTINGS_H_ */
"""


def cpp_header() -> str:
    """The text of plugins/include/vmoe/settings.hpp: `Setting`, `Profile`, and what turns them into the structs of C."""
    rows = list(ROWS.values())
    values = {"ratio": "double", "whole": "int64_t", "flag": "bool"}
    setting = "\n".join(f"  std::optional<{values[row.type]}> {row.stored}; // {_lowered(row.title)}" for row in rows)
    profile = "\n".join(f"  {values[row.type]} {row.stored} = {{}}; // {_lowered(row.title)}" for row in rows)
    given = "\n".join(f"  set(setting.{row.stored}, {_flag(row)}, c.{row.stored});" for row in rows)
    taken = "\n".join(f"  profile.{row.stored} = c.{row.stored}{' != 0' if row.type == 'flag' else ''};" for row in rows)
    return f"""{CPP_HEAD}
// A routing setting of one call: a profile, and what to replace in it. All empty: the engine's profile. vmoe_setting
// says which models have which.
struct Setting {{
  std::optional<std::string> profile;
{setting}
}};

// A complete setting of one model. What its kind does not have is 0 or false.
struct Profile {{
  std::string name;
  double effective_ratio = 0; // C after rounding to whole slots
  std::vector<int64_t> slots; // slots per expert and group, of each MoE layer
{profile}
}};

namespace internal {{

// Points into `setting`.
inline vmoe_setting c_setting(const Setting& setting) {{
  vmoe_setting c = VMOE_SETTING_INIT;
  c.profile = setting.profile ? setting.profile->c_str() : nullptr;
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
{taken}
  return profile;
}}

}}  // namespace internal

}}  // namespace vmoe

#endif  // VMOE_SETTINGS_HPP_
"""


def rows_header() -> str:
    """The text of plugins/sdk/generated/setting_rows.h: the rows, and what visits them with their fields in the structs."""
    rows = list(ROWS.values())
    table = "\n".join(f"  {_row(row)}," for row in rows)
    visits = "\n".join(
        f"  visit(kSettingRows[{place}], &vmoe_setting::{row.stored}, &vmoe_profile::{row.stored});"
        for place, row in enumerate(rows)
    )
    return f"""{ROWS_HEAD}
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


def _row(row: SettingRow) -> str:
    kinds = " | ".join("kOf" + "".join(word.capitalize() for word in re.split("-", kind)) for kind in row.kinds)
    least, most = (0, 1) if row.type == "flag" else row.range or (0, 0)
    needed = row.default is None
    fields = [
        f"{json.dumps(row.name)}, {json.dumps(row.stored)}, {json.dumps(row.suffix)}",
        f"SettingType::k{row.type.capitalize()}, {_flag(row)}, {kinds}",
        f"{json.dumps(needed)}, {int(row.default or 0)}, {least}, {most}, {json.dumps(row.merging)}",
    ]
    return f"{{{', '.join(fields)}}}"
