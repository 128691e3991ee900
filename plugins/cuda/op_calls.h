// Functions that put ops on a CUDA stream, for the adapters to ONNX Runtime and TensorRT.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "ops/op_table.h"
#include "ops/sizes.h"

namespace vmoe::cuda {

// One call of an op. Its arguments have been checked. Inputs and outputs have the same indices as in the op's
// declaration. The pointers of omitted inputs, of omitted outputs and of inputs that are settings are null.
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
// If an element of src is not a valid token, the row of its slot is filled with zeros. The function does not return an
// error in this case, because it would have to wait for the GPU.
cudaError_t put_dispatch(const OpCall& call);
cudaError_t put_route_dispatch(const OpCall& call);
// A slot index past the last slot adds nothing to the sum. The function does not return an error in this case, because
// it would have to wait for the GPU.
cudaError_t put_combine(const OpCall& call);

}  // namespace vmoe::cuda
