// Multiplies many rows by whole packed float32 matrices, on several threads.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// The number of rows that layers with float32 weights process at a time. The limit bounds the memory that these layers
// need. In a batch of 128, each image adds 1.2 to 1.4 MB with the limit, and 10 MB without it (commit 9eb692e4).
inline constexpr size_t kFloat32Rows = 2048;

// Returns the distance in float32 elements between the starts of two rows: `columns` rounded up to whole cache lines,
// plus one cache line. If this distance were a power of two, the rows of a tile would compete for the same few lines
// of the cache.
size_t padded_stride(size_t columns);

// Computes out[r] = epilogue(rows[r] x matrix e) for each matrix e of `weights` and for each of its rows r,
// first[e] <= r < first[e + 1].
//
// `product` provides the rows, their depth, the epilogue and the output. Its pointers to rows, bias, factor and
// output point to the first row, matrix 0 and column 0. The epilogue's bias is f32[matrices, columns]. If a matrix
// has no rows, neither the matrix nor its bias is read. Throws std::bad_alloc.
void multiply_all(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                  const TaskRunner& runner);

// Computes out f32[rows, P] = x f32[rows, D] . w on the calling thread, where w is the only matrix of `weights`.
void multiply_rows(const PackedWeights& weights, const float* x, size_t rows, float* out);

}  // namespace vmoe
