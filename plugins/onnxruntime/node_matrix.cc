#include "onnxruntime/node_matrix.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {
namespace {

StoredWeights stored(const Tensor& tensor, const MatrixParts& parts) {
  StoredWeights weights;
  weights.data = tensor.data;
  weights.type = tensor.type;
  weights.column_parts = parts.columns;
  weights.depth_parts = parts.depth;
  weights.depth_chunk = parts.chunk;
  const auto rank = static_cast<size_t>(tensor.shape.rank);
  weights.matrices = rank == 3 ? static_cast<size_t>(tensor.shape.sizes[0]) : 1;
  weights.depth = static_cast<size_t>(tensor.shape.sizes[rank - 2]);
  weights.columns = static_cast<size_t>(tensor.shape.sizes[rank - 1]);
  return weights;
}

// Pages of a mapped file leave the process's memory; anything else keeps its contents, too.
void give_back(const void* data, size_t bytes) {
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

}  // namespace

NodeMatrix::NodeMatrix(const NodeInfo& node, size_t index, MatrixParts parts)
    : kernels_(process_kernels()), index_(index), parts_(parts) {
  const std::optional<Tensor> constant = node.constant_input(index);
  if (!constant) return;
  const StoredWeights weights = stored(*constant, parts_);
  constant_ = PackedWeights::share(kernels_, weights);
  give_back(weights.data, weights.bytes());
}

std::shared_ptr<const PackedWeights> NodeMatrix::packed(const Call& call) const {
  return constant_ ? constant_ : std::make_shared<const PackedWeights>(kernels_, stored(call.input(index_), parts_));
}

}  // namespace vmoe::ort
