#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/ops.h"
#include "cuda/row_phases.h"

namespace vmoe::cuda {
namespace {

template <class Word>
__global__ void dispatch_kernel(const Word* __restrict__ x, size_t tokens, const int32_t* __restrict__ src,
                                size_t slots, size_t words, Word* __restrict__ buf) {
  const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (index >= slots) return;
  dispatch_row(threadIdx.x, blockDim.x, words, tokens, index, ConstMemory<int32_t>{src}, ConstMemory<Word>{x},
               Memory<Word>{buf});
}

template <class Word>
cudaError_t launch_kernel(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                          cudaStream_t stream) {
  const size_t words = row_bytes / sizeof(Word);
  const RowLaunch rows = plan_rows(slots, words, kCopyBatch);
  dispatch_kernel<<<rows.grid, rows.block, 0, stream>>>(static_cast<const Word*>(x), tokens, src, slots, words,
                                                        static_cast<Word*>(buf));
  return cudaGetLastError();
}

}  // namespace

cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t stream) {
  if (slots == 0 || row_bytes == 0) return cudaSuccess;
  if (slots > INT32_MAX || row_bytes % 2 != 0) return cudaErrorInvalidValue;
  if (are_words(x, row_bytes) && are_words(buf, row_bytes)) {
    return launch_kernel<Word16>(x, tokens, src, slots, row_bytes, buf, stream);
  }
  return launch_kernel<uint16_t>(x, tokens, src, slots, row_bytes, buf, stream);
}

}  // namespace vmoe::cuda
