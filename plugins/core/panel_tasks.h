// Products of many rows and whole packed float32 matrices, split into tasks.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// The number of rows that layers with float32 weights process at a time, which bounds their memory. With it, each image
// of a batch of 128 takes 1.2 to 1.4 MB more memory, instead of 10 MB (commit 9eb692e4).
inline constexpr size_t kFloat32Rows = 2048;

// Returns a row stride in elements of float32, one cache line longer than `columns`. With a power of two, the rows of a
// tile would compete for the same few lines of the cache.
size_t padded_stride(size_t columns);

// out[r] = epilogue(rows[r] x matrix e) for the rows first[e] <= r < first[e + 1] of each matrix e of `weights`.
//
// `product` has the rows, their depth, the epilogue and the output. Its rows, bias and output begin at the first row,
// matrix 0 and column 0. The bias of the epilogue is f32[matrices, columns]. Matrices without rows, and their biases,
// are not read. Throws std::bad_alloc.
void multiply_all(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                  const TaskRunner& runner);

// Computes out f32[rows, P] = x f32[rows, D] . matrix on the calling thread; `weights` has one matrix.
void multiply_rows(const PackedWeights& weights, const float* x, size_t rows, float* out);

}  // namespace vmoe
