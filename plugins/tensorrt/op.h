// An op for TensorRT: its declaration, and the call that puts its work on a stream. Shapes, types, formats, limits and
// errors all follow from the declaration (plugin.cc).
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "cuda/ops.h"
#include "ops/op_table.h"
#include "ops/sizes.h"
#include "ops/types.h"

namespace vmoe::tensorrt {

// One run of an op, with everything known. Inputs and outputs have the indices of the declaration.
struct Call {
  const ops::OpSpec& spec;
  RoutingShape routing;  // of ops that route
  const ops::Sizes& sizes;
  const ops::Types& types;
  const void* const* inputs;  // without capacity, k and bpr, which are fields here
  void* const* outputs;
  void* workspace;
  cudaStream_t stream;

  ElementType type(size_t input) const { return types[spec.inputs[input].type]; }
  size_t row_bytes(size_t input) const { return sizes['D'] * bytes_of(type(input)); }

  template <class T>
  const T* data(size_t input) const {
    return static_cast<const T*>(inputs[spec.tensors_before(input)]);
  }
  template <class T>
  T* output(size_t index) const {
    return static_cast<T*>(outputs[index]);
  }
};

struct Op {
  const ops::OpSpec& spec;
  // Bytes for a shape that is not refused. Null for ops that do not route: they need no workspace.
  size_t (*workspace_bytes)(const RoutingShape& shape);
  cudaError_t (*enqueue)(const Call& call);
};

extern const std::array<Op, 5> kOps;

}  // namespace vmoe::tensorrt
