// What an op takes and gives. The same table as the exporter's, and held to it by the tests.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>

namespace vmoe::ort {

// An input or output. `dims` has one letter per dimension: G groups, S tokens per group, D hidden, E experts, F expert
// hidden, K experts per token, M = G * capacity places, N images, T tokens and Q queries per image, P outputs of a
// dense layer; 1 is itself.
struct ValueSpec {
  const char* name;
  ONNXTensorElementDataType type;  // UNDEFINED: float32 or bfloat16
  const char* dims;
  bool optional = false;
};

struct OpSpec {
  const char* name;
  const ValueSpec* inputs;
  size_t input_count;
  const ValueSpec* outputs;
  size_t output_count;
};

inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kBfloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
inline constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
inline constexpr auto kFloatOrBfloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

}  // namespace vmoe::ort
