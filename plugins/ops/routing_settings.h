// capacity, k and bpr of a node that routes, and its policies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/routing_shape.h"
#include "ops/attributes.h"
#include "ops/sizes.h"

namespace vmoe::ops {

struct RoutingSettings {
  // The first three are inputs or attributes; the policies, inputs alone, may be left out: routing is official then.
  static constexpr size_t kCount = 3;
  static constexpr std::array<const char*, 5> kNames{"capacity", "k", "bpr", "pool", "max_experts"};

  // In the order of kNames; nothing for what isn't known yet.
  std::array<std::optional<int64_t>, kNames.size()> values;

  // Throw OpError for one that isn't known.
  int64_t capacity() const { return known(0); }
  int64_t k() const { return known(1); }
  int64_t bpr() const { return known(2); }

  // Throws OpError for a value that no sizes could run with.
  void check() const;

  // The routing of gates [G, S, E], whose sizes must be known; sets K, and M to what it is without a pool. Throws
  // OpError for a setting that is out of range or missing, and for slots or choices too many for 32 bits.
  RoutingShape routing_shape(Sizes& sizes) const;

 private:
  int64_t known(size_t index) const;
};

// The settings that a node has as attributes; none of an op that doesn't route. Throws OpError as check.
RoutingSettings read_routing_settings(const OpSpec& spec, const ReadAttribute& read);

// Throws OpError where the slots, E * M, or the choices of all tokens, G * S * K, are too many for 32 bits.
void check_numbering(const Sizes& sizes);

}  // namespace vmoe::ops
