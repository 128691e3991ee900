// Puts ops on a stream, for the adapters.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "ops/op_table.h"
#include "ops/sizes.h"

namespace vmoe::cuda {

// One checked call of an op. Inputs and outputs are indexed as in its declaration. Omitted ones are null, and so are
// inputs that are settings.
struct OpCall {
  const RoutingShape& routing;  // for ops that route
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
// An invalid token in src gives a row of zeros: returning an error would mean waiting for the GPU.
cudaError_t put_dispatch(const OpCall& call);
cudaError_t put_route_dispatch(const OpCall& call);
// A slot past the last one adds nothing: returning an error would mean waiting for the GPU.
cudaError_t put_combine(const OpCall& call);

}  // namespace vmoe::cuda
