// The settings of a call, such as its capacity: inputs of a node or, unless they are optional, INT attributes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <vector>

#include "ops/attributes.h"
#include "ops/op_table.h"

namespace vmoe::ops {

// Values by setting, such as settings[Setting::kPool]; nothing for what is left out or not known yet.
class Settings {
 public:
  std::optional<int64_t>& operator[](size_t setting) { return values_[setting]; }
  const std::optional<int64_t>& operator[](size_t setting) const { return values_[setting]; }

  // Throws OpError for one that isn't known.
  int64_t known(size_t setting) const;

  // Throws OpError for a value that no sizes could run with.
  void check() const;

 private:
  std::array<std::optional<int64_t>, std::size(kSettings)> values_;
};

// Whether the op routes tokens to experts, and whether experts choose their tokens then, instead of tokens k experts.
inline bool routes(const OpSpec& spec) { return spec.takes(Setting::kCapacity); }
inline bool experts_choose(const OpSpec& spec) { return routes(spec) && !spec.takes(Setting::kK); }

// The settings that every node of the op has, as an input or as an attribute.
std::vector<size_t> needed_settings(const OpSpec& spec);

// The settings that a node has as attributes. Throws OpError as check.
Settings read_settings(const OpSpec& spec, const ReadAttribute& read);

}  // namespace vmoe::ops
