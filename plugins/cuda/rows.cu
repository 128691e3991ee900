// Dispatch and combine, row by row.
#include <cstring>

#include "core/element.h"
#include "cuda/copy_row.h"
#include "cuda/launch.h"
#include "cuda/ops.h"
#include "cuda/words.h"

namespace vmoe::cuda {
namespace {

// Each row of a block's threads copies the row of one slot.
template <class Word>
__global__ void dispatch_kernel(const Word* __restrict__ x, size_t tokens, const int32_t* __restrict__ src,
                                size_t slots, size_t words, Word* __restrict__ buf) {
  const size_t slot = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (slot >= slots) return;
  const int32_t token = src[slot];
  const bool is_token = token >= 0 && static_cast<size_t>(token) < tokens;
  copy_row(threadIdx.x, blockDim.x, words, is_token ? x + static_cast<size_t>(token) * words : nullptr,
           buf + slot * words);
}

template <class Word>
cudaError_t launch_dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                            cudaStream_t stream) {
  const size_t words = row_bytes / sizeof(Word);
  const RowLaunch rows = plan_rows(slots, words, kCopyBatch);
  dispatch_kernel<<<rows.grid, rows.block, 0, stream>>>(static_cast<const Word*>(x), tokens, src, slots, words,
                                                        static_cast<Word*>(buf));
  return cudaGetLastError();
}

// Number of words of each row that a lane reads before it uses them, so that several reads are in flight.
constexpr uint32_t kCombineBatch = 2;

struct CombineShape {
  size_t slots;
  size_t tokens;
  size_t choices;
  size_t hidden;
};

// Each row of a block's threads sums the rows of one token. As on the CPU, a sum starts with the first product rather
// than with zero.
template <class T, class Word>
__global__ void combine_kernel(const Word* __restrict__ out, const int32_t* __restrict__ slot,
                               const float* __restrict__ weight, CombineShape shape, size_t words,
                               Word* __restrict__ y) {
  using Parts = Elements<T, Word>;
  const size_t token = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (token >= shape.tokens) return;
  const auto choices = static_cast<uint32_t>(shape.choices);
  const size_t first_pair = token * choices;
  for (size_t first = threadIdx.x; first < words; first += static_cast<size_t>(blockDim.x) * kCombineBatch) {
    float sum[kCombineBatch][Parts::kCount] = {};
    for (uint32_t k = 0; k < choices; ++k) {
      const int32_t index = slot[first_pair + k];
      if (index < 0 || static_cast<size_t>(index) >= shape.slots) continue;
      const float scale = weight[first_pair + k];
      Word batch[kCombineBatch] = {};
      VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
        const size_t w = first + static_cast<size_t>(i) * blockDim.x;
        if (w < words) batch[i] = out[static_cast<size_t>(index) * words + w];
      }
      VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
        Parts parts;
        std::memcpy(&parts, &batch[i], sizeof(parts));
        VMOE_UNROLL for (uint32_t j = 0; j < Parts::kCount; ++j) {
          const float product = scale * to_float(parts.at[j]);
          sum[i][j] = k == 0 ? product : sum[i][j] + product;
        }
      }
    }
    VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * blockDim.x;
      if (w >= words) break;
      Parts parts;
      VMOE_UNROLL for (uint32_t j = 0; j < Parts::kCount; ++j) parts.at[j] = from_float<T>(sum[i][j]);
      Word word;
      std::memcpy(&word, &parts, sizeof(word));
      y[token * words + w] = word;
    }
  }
}

template <class T, class Word>
cudaError_t launch_combine(const void* out, const int32_t* slot, const float* weight, const CombineShape& shape,
                           void* y, cudaStream_t stream) {
  const size_t words = shape.hidden * sizeof(T) / sizeof(Word);
  const RowLaunch rows = plan_rows(shape.tokens, words, kCombineBatch);
  combine_kernel<T, Word><<<rows.grid, rows.block, 0, stream>>>(static_cast<const Word*>(out), slot, weight, shape,
                                                                words, static_cast<Word*>(y));
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_combine_words(const void* out, const int32_t* slot, const float* weight, const CombineShape& shape,
                                 void* y, cudaStream_t stream) {
  if (are_words(out, shape.hidden * sizeof(T)) && are_words(y, shape.hidden * sizeof(T))) {
    return launch_combine<T, Word16>(out, slot, weight, shape, y, stream);
  }
  return launch_combine<T, T>(out, slot, weight, shape, y, stream);
}

}  // namespace

cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t stream) {
  if (slots == 0 || row_bytes == 0) return cudaSuccess;
  if (slots > INT32_MAX || row_bytes % 2 != 0) return cudaErrorInvalidValue;
  if (are_words(x, row_bytes) && are_words(buf, row_bytes)) {
    return launch_dispatch<Word16>(x, tokens, src, slots, row_bytes, buf, stream);
  }
  return launch_dispatch<uint16_t>(x, tokens, src, slots, row_bytes, buf, stream);
}

cudaError_t combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                    size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream) {
  if (tokens > INT32_MAX || choices > INT32_MAX) return cudaErrorInvalidValue;
  if (tokens == 0 || hidden == 0) return cudaSuccess;
  const CombineShape shape{slots, tokens, choices, hidden};
  switch (type) {
    case ElementType::kFloat32: return launch_combine_words<float>(out, slot, weight, shape, y, stream);
    case ElementType::kFloat16: return launch_combine_words<Float16>(out, slot, weight, shape, y, stream);
    case ElementType::kBfloat16: return launch_combine_words<Bfloat16>(out, slot, weight, shape, y, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace vmoe::cuda
