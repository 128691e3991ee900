// An op for TensorRT, declared: its inputs and outputs with their types and shapes, and the call that puts its work on
// a stream. Shapes, types, formats, limits and errors all follow from the declaration (plugin.cc).
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "cuda/ops.h"
#include "tensorrt/sizes.h"

namespace vmoe::tensorrt {

enum class ValueType {
  kInt32,
  kGates,   // float32, float16 or bfloat16; all gates of an op have the same
  kTokens,  // likewise for tokens
  kWeight,  // float32 or the tokens' type
};

struct ValueSpec {
  const char* name;
  ValueType type;
  const char* dims;  // a letter each
};

// One run of an op, with everything known.
struct Call {
  RoutingShape routing;  // of ops that route
  const Sizes& sizes;
  const nvinfer1::PluginTensorDesc* descs;  // of the inputs
  const void* const* inputs;
  void* const* outputs;
  void* workspace;
  cudaStream_t stream;

  cuda::Type type(size_t input) const;
  size_t row_bytes(size_t input) const { return sizes['D'] * cuda::TypeBytes(type(input)); }
};

struct OpSpec {
  static constexpr size_t kMaxValues = 3;

  const char* name;
  ValueSpec inputs[kMaxValues];
  size_t input_count;
  ValueSpec outputs[kMaxValues];
  size_t output_count;
  // Bytes for a shape that is not refused. Null for ops that do not route: they have no settings and need no workspace.
  size_t (*workspace_bytes)(const RoutingShape& shape);
  cudaError_t (*enqueue)(const Call& call);

  bool routes() const { return workspace_bytes != nullptr; }
};

extern const OpSpec kRouteOp;
extern const OpSpec kDispatchOp;
extern const OpSpec kRouteDispatchOp;
extern const OpSpec kCombineOp;

}  // namespace vmoe::tensorrt
