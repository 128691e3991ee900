#include "onnxruntime/tensor.h"

#include <algorithm>
#include <string>
#include <vector>

#include "onnxruntime/ort_error.h"
#include "ops/op_error.h"

namespace vmoe::ort {
namespace {

struct TypePair {
  ElementType type;
  ONNXTensorElementDataType onnx;
};

constexpr TypePair kTypes[] = {
    {ElementType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {ElementType::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {ElementType::kBfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
    {ElementType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {ElementType::kInt4, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4},
    {ElementType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {ElementType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
};

}  // namespace

std::optional<ElementType> element_type_of(ONNXTensorElementDataType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.onnx == type) return pair.type;
  }
  return std::nullopt;
}

ONNXTensorElementDataType onnx_type_of(ElementType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.type == type) return pair.onnx;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

const char* name_of(ONNXTensorElementDataType type) {
  if (const std::optional<ElementType> known = element_type_of(type)) return vmoe::name_of(*known);
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return "float64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    default: return "of another type";
  }
}

Tensor read_tensor(const OrtApi& api, const OrtValue* value, const char* name) {
  int is_tensor = 0;
  check(api, api.IsTensor(value, &is_tensor));
  if (is_tensor == 0) throw ops::OpError(std::string(name) + " is not a tensor");
  Tensor tensor;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetTensorElementType(info, &type);
  if (status == nullptr) status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    tensor.shape.rank = static_cast<int64_t>(rank);
    status = api.GetDimensions(info, tensor.shape.sizes.data(), std::min(rank, ops::Shape::kMaxRank));
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(api, status);
  const std::optional<ElementType> known = element_type_of(type);
  if (!known) throw ops::OpError(std::string(name) + " is " + name_of(type) + ", which no op takes");
  tensor.type = *known;
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

}  // namespace vmoe::ort
