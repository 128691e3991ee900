// What ONNX Runtime passes to a kernel about its node and about each call. This data is checked against the op's
// declaration.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "core/task_runner.h"
#include "ops/call_checks.h"
#include "ops/op_table.h"

namespace vmoe::ort {

// A tensor in memory that this object does not own. The memory is on the device that the kernel runs on.
struct Tensor {
  const void* data = nullptr;  // null if omitted
  ElementType type = ElementType::kFloat32;
  ops::Shape shape;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

ONNXTensorElementDataType onnx_type_of(ElementType type);

// The part of a node that is known when its kernel is created.
class NodeInfo {
 public:
  // Throws OpError if no call of the node could run. The reason may be the attributes, the input types, the omitted
  // inputs or the shapes of constant inputs.
  NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const ops::OpSpec& spec);

  const ops::Node& node() const { return node_; }
  int64_t attribute(size_t index) const { return node_.attributes[index]; }

  // Returns input `index` if it is a constant, or none otherwise. The shape of the input has been checked.
  std::optional<Tensor> constant_input(size_t index) const;

 private:
  const OrtApi& api_;
  const OrtKernelInfo* info_;
  ops::Node node_;
  size_t input_count_ = 0;

  std::optional<int64_t> read_attribute(const char* name) const;
  bool is_given(size_t input) const;
  std::optional<ONNXTensorElementDataType> type_of(size_t input) const;
};

// One call of a node. The types, shapes and settings of its inputs have been checked.
class Call {
 public:
  // Throws OpError if the op doesn't accept the inputs.
  Call(const OrtApi& api, OrtKernelContext* context, const ops::Node& node);

  const ops::OpSpec& spec() const { return *node_.spec; }

  const Tensor& input(size_t index) const { return inputs_[index]; }

  // Returns the values of input `index`, or null if the input is omitted.
  template <class T>
  const T* data(size_t index) const {
    return inputs_[index].as<T>();
  }

  // Returns the values of an int32 input. Throws OpError if a value is neither -1 nor an index from 0 to count - 1.
  // `things` is used in the error message. It says what the indices refer to, such as "tokens".
  const int32_t* indices(size_t index, size_t count, const char* things) const;

  // Returns the scales of the weights that are input `weights`, or null if these weights are not quantized.
  const void* scales(size_t weights) const {
    const size_t input = node_.spec->inputs[weights].scale;
    return input == ops::kNoScale ? nullptr : inputs_[input].data;
  }

  // Returns the sizes of the op's dimensions. If the op routes, they include K, the choices per token, and M. M is the
  // number of slots that each expert has if there is no pool.
  const ops::Sizes& sizes() const { return sizes_; }

  // Returns the value of the setting, or none if the call does not have it.
  std::optional<int64_t> setting(size_t setting) const { return settings_[setting]; }

  const ops::Types& types() const { return types_; }

  // Returns the shape of the routing. Must be called only if the op routes.
  const RoutingShape& routing() const { return routing_; }

  // Creates output `index` and returns its memory, or null if the node omits the output.
  template <class T>
  T* output(size_t index) const {
    return static_cast<T*>(raw_output(index, sizes_));
  }

  // Creates output `index` and returns its memory, or null if the node omits the output. The size of the dimension
  // `dim` is known only during the call, and is passed as `size`. Throws OpError if there are more slots than a
  // 32-bit index can reach.
  template <class T>
  T* output(size_t index, char dim, size_t size) const {
    ops::Sizes sizes = sizes_;
    sizes.set(dim, static_cast<int64_t>(size));
    ops::check_numbering(sizes);
    return static_cast<T*>(raw_output(index, sizes));
  }

  // Returns a runner that uses ONNX Runtime's own threads. It is valid only during the call.
  TaskRunner runner() const;

  const OrtApi& api() const { return api_; }
  OrtKernelContext* context() const { return context_; }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  const ops::Node& node_;
  std::array<Tensor, ops::kMaxInputs> inputs_;
  ops::Settings settings_;
  ops::Types types_;
  ops::Sizes sizes_;
  RoutingShape routing_;
  size_t output_count_ = 0;

  void* raw_output(size_t index, const ops::Sizes& sizes) const;
};

}  // namespace vmoe::ort
