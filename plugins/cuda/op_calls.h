// What each op puts on a stream, for the adapters.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "ops/op_table.h"
#include "ops/sizes.h"

namespace vmoe::cuda {

// One run of an op, which was checked. Inputs and outputs have the indices of its declaration; those that are left out,
// and inputs that are settings, are null.
struct OpCall {
  const RoutingShape& routing;  // of ops that route
  const ops::Sizes& sizes;
  ElementType tokens;  // T
  std::array<const void*, ops::kMaxInputs> inputs;
  std::array<void*, ops::kMaxOutputs> outputs;
  void* workspace;
  cudaStream_t stream;

  size_t row_bytes() const { return sizes['D'] * bytes_of(tokens); }

  template <class T>
  const T* data(size_t input) const {
    return static_cast<const T*>(inputs[input]);
  }
  template <class T>
  T* output(size_t index) const {
    return static_cast<T*>(outputs[index]);
  }
};

cudaError_t put_gates(const OpCall& call);
cudaError_t put_route(const OpCall& call);
// A src that is no token can't be told without waiting for the GPU; its row is zeros.
cudaError_t put_dispatch(const OpCall& call);
cudaError_t put_route_dispatch(const OpCall& call);
// Slots can't be checked without waiting for the GPU; those past the last one add nothing.
cudaError_t put_combine(const OpCall& call);

}  // namespace vmoe::cuda
