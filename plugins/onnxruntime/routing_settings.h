// capacity, k and bpr of a node: optional inputs i64[1], or INT attributes; an input wins.
#pragma once

#include "core/routing.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

class RoutingSettings {
 public:
  // Throws OpError for an attribute that no call could run with.
  explicit RoutingSettings(const NodeInfo& node);

  // The routing of one call; sets K and M. `first_input` is the index of capacity among the inputs, k and bpr follow.
  // G, S and E must be known. Throws OpError for a setting out of range.
  RoutingShape Read(const Call& call, size_t first_input, Sizes& sizes) const;

 private:
  std::optional<int64_t> capacity_, k_, bpr_;
};

}  // namespace vmoe::ort
