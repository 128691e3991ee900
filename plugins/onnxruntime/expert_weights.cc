#include "onnxruntime/expert_weights.h"

namespace vmoe::ort {

NodeExpertWeights::NodeExpertWeights(const NodeInfo& node, size_t first_input)
    : first_input_(first_input), w1_(node, first_input), w2_(node, first_input + 2) {}

ExpertWeights NodeExpertWeights::Read(const Call& call) const {
  return {w1_.Packed(call), w2_.Packed(call), call.Data<float>(first_input_ + 1), call.Data<float>(first_input_ + 3)};
}

}  // namespace vmoe::ort
