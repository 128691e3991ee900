// Products of many rows with whole packed float32 matrices, cut into tasks.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// Layers of float32 weights work on so many rows at once, which bounds what they hold beside the residual stream.
inline constexpr size_t kFloat32Rows = 2048;

// Row strides that are powers of two would put the rows of a tile into the same few cache lines; one line more, and
// they don't. Elements of float32.
size_t padded_stride(size_t columns);

// out[r] = epilogue(rows[r] x matrix e) for the rows first[e] <= r < first[e + 1] of each matrix e of `weights`.
//
// `product` says where the rows are, their depth, the epilogue and the output; rows, bias and output are those of the
// first row, matrix 0 and column 0. `bias` of the epilogue is f32[matrices, columns]. Nothing is read of a matrix
// without rows, nor of its bias. Throws std::bad_alloc.
void multiply_all(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                  const TaskRunner& runner);

// out f32[rows, P] = x f32[rows, D] x the one matrix of `weights`, on the calling thread.
void multiply_rows(const PackedWeights& weights, const float* x, size_t rows, float* out);

}  // namespace vmoe
