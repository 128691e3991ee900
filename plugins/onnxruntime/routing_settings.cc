#include "onnxruntime/routing_settings.h"

#include <cstdint>
#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

int64_t Setting(const Call& call, size_t input, Sizes& sizes, std::optional<int64_t> attribute, const char* name) {
  if (const std::optional<Tensor> tensor = call.OptionalInput(input, sizes)) return *tensor->as<int64_t>();
  if (attribute) return *attribute;
  throw OpError(std::string(name) + " is neither an input nor an attribute");
}

}  // namespace

RoutingSettings::RoutingSettings(const NodeInfo& node)
    : capacity_(node.Attribute("capacity")), k_(node.Attribute("k")), bpr_(node.Attribute("bpr")) {
  if (capacity_ && *capacity_ < 1) {
    throw OpError("attribute capacity must be at least 1, not " + std::to_string(*capacity_));
  }
  if (k_ && *k_ < 1) throw OpError("attribute k must be at least 1, not " + std::to_string(*k_));
  if (bpr_ && *bpr_ != 0 && *bpr_ != 1) throw OpError("attribute bpr must be 0 or 1, not " + std::to_string(*bpr_));
}

RoutingShape RoutingSettings::Read(const Call& call, size_t first_input, Sizes& sizes) const {
  const int64_t capacity = Setting(call, first_input, sizes, capacity_, "capacity");
  const int64_t k = Setting(call, first_input + 1, sizes, k_, "k");
  const int64_t bpr = Setting(call, first_input + 2, sizes, bpr_, "bpr");
  const auto groups = static_cast<int64_t>(sizes['G']);
  const auto experts = static_cast<int64_t>(sizes['E']);
  const auto tokens = static_cast<int64_t>(sizes['S']);
  if (experts < 1) throw OpError("there are no experts");
  if (k < 1 || k > experts) {
    throw OpError("k must be between 1 and the number of experts, " + std::to_string(experts) + ", not " +
                  std::to_string(k));
  }
  if (capacity < 1) throw OpError("capacity must be at least 1, not " + std::to_string(capacity));
  if (bpr != 0 && bpr != 1) throw OpError("bpr must be 0 or 1, not " + std::to_string(bpr));
  // Places and tokens are numbered in int32.
  if ((groups > 0 && capacity > INT32_MAX / experts / groups) || (tokens > 0 && groups > INT32_MAX / tokens / k)) {
    throw OpError("places and tokens are numbered in 32 bits: capacity " + std::to_string(capacity) +
                  " is too much for " + std::to_string(experts) + " experts and " + std::to_string(groups) +
                  " groups of " + std::to_string(tokens) + " tokens");
  }
  RoutingShape shape;
  shape.groups = sizes['G'];
  shape.tokens = sizes['S'];
  shape.experts = sizes['E'];
  shape.choices = static_cast<size_t>(k);
  shape.capacity = static_cast<size_t>(capacity);
  shape.batch_priority = bpr == 1;
  sizes.Set('K', k);
  sizes.Set('M', groups * capacity);
  return shape;
}

}  // namespace vmoe::ort
