// What an op takes and gives. The same table as the exporter's, and held to it by the tests.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>

namespace vmoe::ort {

// The element type of an input or output. kGates and kTokens are type variables: float32, float16 or bfloat16, and all
// values of one variable have the same type.
enum ValueType { kFloat, kInt32, kInt64, kFloatOrBfloat16, kGates, kTokens };

// An input or output. `dims` has one letter per dimension: G groups, S tokens per group, D hidden, E experts, F expert
// hidden, K experts per token, M = G * capacity places, N images, T tokens and Q queries per image, P outputs of a
// dense layer; 1 is itself.
struct ValueSpec {
  const char* name;
  ValueType type;
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

// What the type variables of an op stand for; ONNX Runtime takes one op of the same name for each choice.
struct TypeChoice {
  ONNXTensorElementDataType gates = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  ONNXTensorElementDataType tokens = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
};

inline constexpr auto kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
inline constexpr auto kBfloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

inline constexpr TypeChoice kFloatOnly[] = {{}};
inline constexpr TypeChoice kAnyGates[] = {{kFloat32, kFloat32}, {kFloat16, kFloat32}, {kBfloat16, kFloat32}};
inline constexpr TypeChoice kAnyTokens[] = {{kFloat32, kFloat32}, {kFloat32, kFloat16}, {kFloat32, kBfloat16}};
inline constexpr TypeChoice kAnyGatesAndTokens[] = {
    {kFloat32, kFloat32},  {kFloat32, kFloat16},  {kFloat32, kBfloat16}, {kFloat16, kFloat32},  {kFloat16, kFloat16},
    {kFloat16, kBfloat16}, {kBfloat16, kFloat32}, {kBfloat16, kFloat16}, {kBfloat16, kBfloat16}};
// Weights, which are gates, are float32 or as wide as tokens.
inline constexpr TypeChoice kWeightsFloatOrAsTokens[] = {
    {kFloat32, kFloat32}, {kFloat32, kFloat16}, {kFloat32, kBfloat16}, {kFloat16, kFloat16}, {kBfloat16, kBfloat16}};

}  // namespace vmoe::ort
