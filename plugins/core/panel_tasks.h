// Multiplies many rows by whole packed float32 matrices, on several threads.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// The number of rows that layers with float32 weights process at a time. The limit bounds their memory: in a batch of
// 128, each image adds 1.2 to 1.4 MB with the limit, and 10 MB without it (commit 9eb692e4).
inline constexpr size_t kFloat32Rows = 2048;

// Returns a row stride, in float32 elements: `columns` rounded up to whole cache lines, plus one cache line. If a row
// stride were a power of two, the rows of a tile would compete for the same few lines of the cache.
size_t padded_stride(size_t columns);

// Computes out[r] = epilogue(rows[r] x matrix e) for the rows first[e] <= r < first[e + 1] of each matrix e of
// `weights`.
//
// `product` provides the rows, their depth, the epilogue and the output. Its pointers to rows, bias, factor and output
// point to the first row, matrix 0 and column 0. The bias of the epilogue is f32[matrices, columns]. Matrices without
// rows, and their biases, are not read. Throws std::bad_alloc.
void multiply_all(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                  const TaskRunner& runner);

// Computes out f32[rows, P] = x f32[rows, D] . w on the calling thread, where w is the only matrix of `weights`.
void multiply_rows(const PackedWeights& weights, const float* x, size_t rows, float* out);

}  // namespace vmoe
