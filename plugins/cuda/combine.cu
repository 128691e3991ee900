#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/ops.h"
#include "cuda/row_phases.h"

namespace vmoe::cuda {
namespace {

struct CombineShape {
  size_t slots;
  size_t tokens;
  size_t choices;
  size_t hidden;
};

template <class T, class Word>
__global__ void combine_kernel(const Word* __restrict__ out, const int32_t* __restrict__ slot,
                               const float* __restrict__ weight, CombineShape shape, size_t words,
                               Word* __restrict__ y) {
  const size_t token = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (token >= shape.tokens) return;
  combine_row<T>(threadIdx.x, blockDim.x, words, token, static_cast<uint32_t>(shape.choices), shape.slots,
                 ConstMemory<Word>{out}, ConstMemory<int32_t>{slot}, ConstMemory<float>{weight}, Memory<Word>{y});
}

template <class T, class Word>
cudaError_t launch_kernel(const void* out, const int32_t* slot, const float* weight, const CombineShape& shape, void* y,
                          cudaStream_t stream) {
  const size_t words = shape.hidden * sizeof(T) / sizeof(Word);
  const RowLaunch rows = plan_rows(shape.tokens, words, kCombineBatch);
  combine_kernel<T, Word><<<rows.grid, rows.block, 0, stream>>>(static_cast<const Word*>(out), slot, weight, shape,
                                                                words, static_cast<Word*>(y));
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_words(const void* out, const int32_t* slot, const float* weight, const CombineShape& shape, void* y,
                         cudaStream_t stream) {
  if (are_words(out, shape.hidden * sizeof(T)) && are_words(y, shape.hidden * sizeof(T))) {
    return launch_kernel<T, Word16>(out, slot, weight, shape, y, stream);
  }
  return launch_kernel<T, T>(out, slot, weight, shape, y, stream);
}

}  // namespace

cudaError_t combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                    size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream) {
  if (tokens > INT32_MAX || choices > INT32_MAX) return cudaErrorInvalidValue;
  if (tokens == 0 || hidden == 0) return cudaSuccess;
  const CombineShape shape{slots, tokens, choices, hidden};
  switch (type) {
    case ElementType::kFloat32: return launch_words<float>(out, slot, weight, shape, y, stream);
    case ElementType::kFloat16: return launch_words<Float16>(out, slot, weight, shape, y, stream);
    case ElementType::kBfloat16: return launch_words<Bfloat16>(out, slot, weight, shape, y, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace vmoe::cuda
