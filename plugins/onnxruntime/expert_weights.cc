#include "onnxruntime/expert_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

StoredWeights Stored(const Tensor& tensor) {
  StoredWeights weights;
  weights.data = tensor.data;
  weights.bf16 = tensor.type == kBfloat16;
  const size_t rank = tensor.shape.size();
  weights.matrices = rank == 3 ? static_cast<size_t>(tensor.shape[0]) : 1;
  weights.depth = static_cast<size_t>(tensor.shape[rank - 2]);
  weights.columns = static_cast<size_t>(tensor.shape[rank - 1]);
  return weights;
}

// Pages of a mapped file leave the process's memory; anything else keeps its contents, too.
void GiveBack(const void* data, size_t bytes) {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#else
  (void)data;
  (void)bytes;
#endif
}

void CheckSameType(const Tensor& w1, const Tensor& w2) {
  if (w1.type != w2.type) throw OpError("w1 and w2 are of different types: both are float32, or both bfloat16");
}

}  // namespace

std::shared_ptr<const PackedWeights> PackConstant(const Kernels& kernels, const Tensor& tensor) {
  const StoredWeights weights = Stored(tensor);
  auto packed = PackedWeights::Shared(kernels, weights);
  GiveBack(weights.data, weights.bytes());
  return packed;
}

std::shared_ptr<const PackedWeights> PackOnce(const Kernels& kernels, const Tensor& tensor) {
  return std::make_shared<const PackedWeights>(kernels, Stored(tensor));
}

NodeExpertWeights::NodeExpertWeights(const NodeInfo& node, const OpSpec& spec, size_t first_input)
    : kernels_(ProcessKernels()), first_input_(first_input) {
  Sizes sizes;
  const auto constant = [&](size_t i) {
    const ValueSpec& value = spec.inputs[first_input + i];
    std::optional<Tensor> tensor = node.Constant(first_input + i, value.name);
    if (tensor) sizes.Add(value, *tensor);
    return tensor;
  };
  const std::optional<Tensor> w1 = constant(0);
  constant(1);
  const std::optional<Tensor> w2 = constant(2);
  constant(3);
  if (w1 && w2) CheckSameType(*w1, *w2);
  if (w1) w1_ = PackConstant(kernels_, *w1);
  if (w2) w2_ = PackConstant(kernels_, *w2);
}

ExpertWeights NodeExpertWeights::Read(const Call& call, Sizes& sizes) const {
  const Tensor w1 = call.Input(first_input_, sizes);
  const Tensor b1 = call.Input(first_input_ + 1, sizes);
  const Tensor w2 = call.Input(first_input_ + 2, sizes);
  const Tensor b2 = call.Input(first_input_ + 3, sizes);
  CheckSameType(w1, w2);
  ExpertWeights weights;
  weights.w1 = w1_ ? w1_ : PackOnce(kernels_, w1);
  weights.w2 = w2_ ? w2_ : PackOnce(kernels_, w2);
  weights.b1 = b1.as<float>();
  weights.b2 = b2.as<float>();
  return weights;
}

}  // namespace vmoe::ort
