#include "onnxruntime/expert_weights.h"

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

void CheckSameType(const Tensor& w1, const Tensor& w2) {
  if (w1.type != w2.type) throw OpError("w1 and w2 are of different types: both are float32, or both bfloat16");
}

}  // namespace

NodeExpertWeights::Constants::Constants(const NodeInfo& node, const OpSpec& spec, size_t first_input) {
  Sizes sizes;
  w1 = CheckedConstant(node, spec, first_input, sizes);
  CheckedConstant(node, spec, first_input + 1, sizes);
  w2 = CheckedConstant(node, spec, first_input + 2, sizes);
  CheckedConstant(node, spec, first_input + 3, sizes);
  if (w1 && w2) CheckSameType(*w1, *w2);
}

NodeExpertWeights::NodeExpertWeights(const NodeInfo& node, const OpSpec& spec, size_t first_input)
    : NodeExpertWeights(Constants(node, spec, first_input), first_input) {}

NodeExpertWeights::NodeExpertWeights(const Constants& constants, size_t first_input)
    : first_input_(first_input), w1_(constants.w1), w2_(constants.w2) {}

ExpertWeights NodeExpertWeights::Read(const Call& call, Sizes& sizes) const {
  const Tensor w1 = call.Input(first_input_, sizes);
  const Tensor b1 = call.Input(first_input_ + 1, sizes);
  const Tensor w2 = call.Input(first_input_ + 2, sizes);
  const Tensor b2 = call.Input(first_input_ + 3, sizes);
  CheckSameType(w1, w2);
  return {w1_.Packed(w1), w2_.Packed(w2), b1.as<float>(), b2.as<float>()};
}

}  // namespace vmoe::ort
