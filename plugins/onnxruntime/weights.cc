#include "onnxruntime/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>

#include "core/tiles.h"

namespace vmoe::ort {
namespace {

StoredWeights stored(const Tensor& tensor, size_t depth_chunk, const void* scale) {
  StoredWeights weights;
  weights.data = tensor.data;
  weights.type = tensor.type;
  weights.depth_chunk = depth_chunk;
  if (weight_type(tensor.type).scales == Scales::kGroups) weights.scale = scale;
  const auto rank = static_cast<size_t>(tensor.shape.rank);
  weights.matrices = rank == 3 ? static_cast<size_t>(tensor.shape.sizes[0]) : 1;
  weights.depth = static_cast<size_t>(tensor.shape.sizes[rank - 2]);
  weights.columns = static_cast<size_t>(tensor.shape.sizes[rank - 1]);
  return weights;
}

// Gives memory back to the system. If the memory belongs to a mapped file, its pages leave the process's memory. They
// are read from the file again when they are needed. Other memory keeps its contents.
void give_back([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#endif
}

size_t checked_chunk(int64_t chunk) {
  constexpr auto kMultiple = static_cast<int64_t>(depth_of_line(ElementType::kInt8));
  if (chunk % kMultiple == 0) return static_cast<size_t>(chunk);
  throw ops::OpError("attribute hidden_chunk must be a multiple of " + std::to_string(kMultiple) + ", not " +
                     std::to_string(chunk));
}

}  // namespace

const Kernels& process_kernels() {
  const ChosenCpuPath& chosen = chosen_cpu_path();
  if (!chosen.error.empty()) throw ops::OpError(chosen.error);
  return kernels_for(chosen.path);
}

NodeLinear::NodeLinear(const NodeInfo& node, size_t input, size_t depth_chunk)
    : kernels_(process_kernels()), input_(input), depth_chunk_(depth_chunk) {
  const std::optional<Tensor> constant = node.constant_input(input);
  if (!constant) return;
  std::optional<Tensor> constant_scale;
  if (weight_type(constant->type).scales == Scales::kGroups) {
    constant_scale = node.constant_input(node.node().spec->inputs[input].scale);
    if (!constant_scale) return;
  }
  const StoredWeights weights = stored(*constant, depth_chunk_, constant_scale ? constant_scale->data : nullptr);
  constant_ = PackedWeights::share(kernels_, weights);
  give_back(weights.data, weights.bytes());
}

std::shared_ptr<const PackedWeights> NodeLinear::packed(const Call& call) const {
  if (constant_) return constant_;
  return std::make_shared<const PackedWeights>(kernels_, stored(call.input(input_), depth_chunk_, call.scales(input_)));
}

LinearWeights NodeLinear::read(const Call& call) const {
  LinearWeights weights{packed(call), call.data<float>(input_ + 1)};
  if (weights.has_column_scale()) weights.scale = static_cast<const float*>(call.scales(input_));
  return weights;
}

bool is_pair_given(const Call& call, size_t first) {
  const bool given = call.input(first).data != nullptr;
  if (given == (call.input(first + 1).data != nullptr)) return given;
  const auto name = [&](size_t input) { return std::string(call.spec().inputs[input].name); };
  throw ops::OpError(name(first) + " or " + name(first + 1) + " is given, but not both");
}

LayerNorm read_norm(const Call& call, size_t scale) {
  return is_pair_given(call, scale) ? LayerNorm{call.data<float>(scale), call.data<float>(scale + 1)} : LayerNorm{};
}

NodeMlp::NodeMlp(const NodeInfo& node, size_t input, int64_t hidden_chunk, Activation activation)
    : hidden_chunk_(checked_chunk(hidden_chunk)),
      activation_(activation),
      first_(node, input),
      second_(node, input + 2, hidden_chunk_) {}

}  // namespace vmoe::ort
