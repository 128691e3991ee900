// What ONNX Runtime tells a kernel when it is made and when it runs, held against the declaration of its op.
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

// A tensor's memory, where the kernel runs; not owned.
struct Tensor {
  const void* data = nullptr;  // null: left out
  ElementType type = ElementType::kFloat32;
  ops::Shape shape;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

ONNXTensorElementDataType onnx_type_of(ElementType type);

// A node, while its kernel is made.
class NodeInfo {
 public:
  // Throws OpError for a node that no call could run: its attributes, the types of its inputs, inputs left out, and the
  // shapes of constants.
  NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const ops::OpSpec& spec);

  const ops::Node& node() const { return node_; }
  int64_t attribute(size_t index) const { return node_.attributes[index]; }

  // Input `index` if it is known at load, or nothing. Its shape is the op's.
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

// A node, while it runs: its inputs, whose types, shapes and settings are the op's.
class Call {
 public:
  // Throws OpError for inputs that the op doesn't take.
  Call(const OrtApi& api, OrtKernelContext* context, const ops::Node& node);

  const ops::OpSpec& spec() const { return *node_.spec; }

  const Tensor& input(size_t index) const { return inputs_[index]; }

  // The values of an input; null where it is left out.
  template <class T>
  const T* data(size_t index) const {
    return inputs_[index].as<T>();
  }

  // The values of an int32 input, each of which must be -1 or the number of one of `count` things, such as "tokens".
  // Throws OpError where one is not.
  const int32_t* indices(size_t index, size_t count, const char* things) const;

  // The scales of input `weights`, which are there where it is quantized, else null.
  const void* scales(size_t weights) const {
    const size_t input = node_.spec->inputs[weights].scale;
    return input == ops::kNoScale ? nullptr : inputs_[input].data;
  }

  // All dimensions of the op; with an op that routes K as well, and M as it is without a pool.
  const ops::Sizes& sizes() const { return sizes_; }

  // The value of a setting; nothing where it is left out.
  std::optional<int64_t> setting(size_t setting) const { return settings_[setting]; }

  const ops::Types& types() const { return types_; }

  // Of an op that routes.
  const RoutingShape& routing() const { return routing_; }

  // Makes output `index`; null for one that the node leaves out.
  template <class T>
  T* output(size_t index) const {
    return static_cast<T*>(raw_output(index, sizes_));
  }

  // Makes output `index`, whose size of one dimension is known only now; null for one that the node leaves out. Throws
  // OpError for more slots than are numbered.
  template <class T>
  T* output(size_t index, char dim, size_t size) const {
    ops::Sizes sizes = sizes_;
    sizes.set(dim, static_cast<int64_t>(size));
    ops::check_numbering(sizes);
    return static_cast<T*>(raw_output(index, sizes));
  }

  // ONNX Runtime's own threads; valid while the call runs.
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
