// capacity, k and bpr of a node that routes, and its policies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "ops/attributes.h"
#include "ops/op_table.h"

namespace vmoe::ops {

struct RoutingSettings {
  // The first ones are inputs or attributes; the policies, inputs alone, may be left out: routing is official then.
  static constexpr size_t kCount = 3;

  // In the order of kSettingNames; nothing for what isn't known yet.
  std::array<std::optional<int64_t>, kSettingNames.size()> values;

  // Throw OpError for one that isn't known.
  int64_t capacity() const { return known(0); }
  int64_t k() const { return known(1); }
  int64_t bpr() const { return known(2); }

  // Throws OpError for a value that no sizes could run with.
  void check() const;

 private:
  int64_t known(size_t index) const;
};

// The settings that a node has as attributes; none of an op that doesn't route. Throws OpError as check.
RoutingSettings read_routing_settings(const OpSpec& spec, const ReadAttribute& read);

}  // namespace vmoe::ops
