#include "onnxruntime/expert_weights.h"

#include <string>

#include "core/tiles.h"
#include "ops/op_error.h"

namespace vmoe::ort {
namespace {

size_t checked_chunk(int64_t chunk) {
  constexpr auto kMultiple = static_cast<int64_t>(depth_of_line(ElementType::kInt8));
  if (chunk % kMultiple != 0) {
    throw ops::OpError("attribute hidden_chunk must be a multiple of " + std::to_string(kMultiple) + ", not " +
                       std::to_string(chunk));
  }
  return static_cast<size_t>(chunk);
}

}  // namespace

NodeExpertWeights::NodeExpertWeights(const NodeInfo& node, size_t first_input, int64_t hidden_chunk)
    : first_input_(first_input),
      hidden_chunk_(checked_chunk(hidden_chunk)),
      w1_(node, first_input),
      w2_(node, first_input + 2, {1, 1, hidden_chunk_}) {}

ExpertWeights NodeExpertWeights::read(const Call& call) const {
  ExpertWeights weights;
  weights.w1 = w1_.packed(call);
  weights.b1 = call.data<float>(first_input_ + 1);
  weights.w2 = w2_.packed(call);
  weights.b2 = call.data<float>(first_input_ + 3);
  weights.w1_scale = call.scales(first_input_);
  weights.w2_scale = call.scales(first_input_ + 2);
  weights.hidden_chunk = hidden_chunk_;
  return weights;
}

}  // namespace vmoe::ort
