#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/ops.h"
#include "cuda/row_phases.h"

namespace vmoe::cuda {
namespace {

template <class Word>
__global__ void dispatch_kernel(const Word* __restrict__ x, size_t tokens, const int32_t* __restrict__ src,
                                size_t places, size_t words, Word* __restrict__ buf) {
  const size_t place = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (place >= places) return;
  dispatch_row(threadIdx.x, blockDim.x, words, tokens, place, ConstMemory<int32_t>{src}, ConstMemory<Word>{x},
               Memory<Word>{buf});
}

template <class Word>
cudaError_t launch_kernel(const void* x, size_t tokens, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                          cudaStream_t stream) {
  const size_t words = row_bytes / sizeof(Word);
  const RowLaunch rows = plan_rows(places, words, kCopyBatch);
  dispatch_kernel<<<rows.grid, rows.block, 0, stream>>>(static_cast<const Word*>(x), tokens, src, places, words,
                                                        static_cast<Word*>(buf));
  return cudaGetLastError();
}

}  // namespace

cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                     cudaStream_t stream) {
  if (places == 0 || row_bytes == 0) return cudaSuccess;
  if (places > INT32_MAX || row_bytes % 2 != 0) return cudaErrorInvalidValue;
  if (are_words(x, row_bytes) && are_words(buf, row_bytes)) {
    return launch_kernel<Word16>(x, tokens, src, places, row_bytes, buf, stream);
  }
  return launch_kernel<uint16_t>(x, tokens, src, places, row_bytes, buf, stream);
}

}  // namespace vmoe::cuda
