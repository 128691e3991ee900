// capacity, k and bpr of an op that routes, as plugin fields.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "tensorrt/sizes.h"

namespace vmoe::tensorrt {

struct Settings {
  static constexpr size_t kCount = 3;
  static constexpr std::array<const char*, kCount> kNames{"capacity", "k", "bpr"};

  // In the order of kNames; zeros for ops that do not route.
  std::array<int32_t, kCount> values{};

  int32_t capacity() const { return values[0]; }
  int32_t k() const { return values[1]; }
  bool bpr() const { return values[2] != 0; }

  // Of gates [G,S,E], whose sizes must be known.
  RoutingShape Shape(const Sizes& sizes) const;
};

// The settings in `fields`: each of kNames once, as one INT32, and nothing else; for ops that do not route, no field at
// all. Throws OpError for anything else, and for a value out of range.
Settings ReadSettings(const nvinfer1::PluginFieldCollection* fields, bool routes);

}  // namespace vmoe::tensorrt
