// What ONNX Runtime tells a kernel when it is made and when it runs.
#pragma once

#include <onnxruntime_c_api.h>

#include <optional>

#include "core/task_runner.h"
#include "onnxruntime/tensor_shapes.h"

namespace vmoe::ort {

// A node, while its kernel is made.
struct NodeInfo {
  const OrtApi& api;
  const OrtKernelInfo* info;

  // An INT attribute, or nothing. Throws OpError if it is of another type.
  std::optional<int64_t> Attribute(const char* name) const;

  // An INT attribute that is 0, which is its default, or 1. Throws OpError for anything else.
  bool Flag(const char* name) const;

  // An input that is known at load, or nothing.
  std::optional<Tensor> Constant(size_t input, const char* name) const;
};

// A node, while it runs.
class Call {
 public:
  Call(const OrtApi& api, OrtKernelContext* context, const OpSpec& spec);

  // Reads input `index`, adds its shape to `sizes`; nothing for an optional input that is left out.
  std::optional<Tensor> OptionalInput(size_t index, Sizes& sizes) const;
  Tensor Input(size_t index, Sizes& sizes) const;

  // Makes output `index` in the shape that the spec and `sizes` give; null for one that nobody asked for.
  template <class T>
  T* Output(size_t index, const Sizes& sizes) const {
    return static_cast<T*>(RawOutput(index, sizes));
  }

  // ONNX Runtime's own threads; valid while the call runs.
  TaskRunner Runner() const;

  const OrtApi& api() const { return api_; }
  OrtKernelContext* context() const { return context_; }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  const OpSpec& spec_;
  size_t input_count_ = 0;
  size_t output_count_ = 0;

  void* RawOutput(size_t index, const Sizes& sizes) const;
};

}  // namespace vmoe::ort
