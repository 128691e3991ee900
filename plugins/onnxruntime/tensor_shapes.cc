#include "onnxruntime/tensor_shapes.h"

#include <cstring>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

const char* TypeName(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return "bfloat16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return "float64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return "int8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    default: return "another type";
  }
}

const char* TypeName(ValueType type) {
  switch (type) {
    case kFloat: return "float32";
    case kInt32: return "int32";
    case kInt64: return "int64";
    case kFloatOrBfloat16: return "float32 or bfloat16";
    case kGates:
    case kTokens: break;
  }
  return "float32, float16 or bfloat16";
}

bool TypeFits(ValueType wanted, ONNXTensorElementDataType given) {
  switch (wanted) {
    case kFloat: return given == kFloat32;
    case kInt32: return given == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case kInt64: return given == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case kFloatOrBfloat16: return given == kFloat32 || given == kBfloat16;
    case kGates:
    case kTokens: break;
  }
  return given == kFloat32 || given == kFloat16 || given == kBfloat16;
}

}  // namespace

Tensor ReadTensor(const OrtApi& api, const OrtValue* value, const char* name) {
  int is_tensor = 0;
  Check(api, api.IsTensor(value, &is_tensor));
  if (is_tensor == 0) throw OpError(std::string(name) + " is not a tensor");
  Tensor tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  Check(api, api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetTensorElementType(info, &tensor.type);
  if (status == nullptr) status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    tensor.shape.resize(rank);
    status = api.GetDimensions(info, tensor.shape.data(), rank);
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  Check(api, status);
  void* data = nullptr;
  Check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

void Sizes::Add(const ValueSpec& spec, const Tensor& tensor) {
  const std::string name = spec.name;
  if (!TypeFits(spec.type, tensor.type)) {
    throw OpError(name + " is " + TypeName(tensor.type) + ", not " + TypeName(spec.type));
  }
  if (tensor.shape.size() != std::strlen(spec.dims)) {
    throw OpError(name + " has shape " + ShapeText(tensor.shape) + ", not the " +
                  std::to_string(std::strlen(spec.dims)) + " dimensions " + spec.dims);
  }
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const char dim = spec.dims[i];
    if (dim == '1') {
      if (tensor.shape[i] != 1) throw OpError(name + " has shape " + ShapeText(tensor.shape) + ", not [1]");
      continue;
    }
    auto& size = sizes_[static_cast<unsigned char>(dim)];
    auto& source = sources_[static_cast<unsigned char>(dim)];
    if (size < 0) {
      size = tensor.shape[i];
      source = spec.name;
    } else if (size != tensor.shape[i]) {
      throw OpError(name + " has shape " + ShapeText(tensor.shape) + ", but " + dim + " is " + std::to_string(size) +
                    (source == nullptr ? "" : std::string(" in ") + source));
    }
  }
}

void Sizes::Set(char dim, int64_t size) { sizes_[static_cast<unsigned char>(dim)] = size; }

std::vector<int64_t> Sizes::Shape(const ValueSpec& spec) const {
  std::vector<int64_t> shape;
  for (const char* dim = spec.dims; *dim != '\0'; ++dim) shape.push_back(sizes_[static_cast<unsigned char>(*dim)]);
  return shape;
}

}  // namespace vmoe::ort
