// A node of one of the ops, as TensorRT's IPluginV3. The functions that TensorRT calls throw no exceptions. If an error
// occurs, they log a message and return an error status.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "cuda/op_calls.h"
#include "ops/call_checks.h"

namespace vmoe::tensorrt {

inline constexpr char kNamespace[] = "vmoe";
inline constexpr char kVersion[] = "1";

// An op: its declaration, and its functions. The declaration determines shapes, types, formats, limits and errors. The
// functions put the op on a stream and calculate its workspace.
struct Op {
  const ops::OpSpec& spec;
  cudaError_t (*put)(const cuda::OpCall& call);
  // Returns the size in bytes of the workspace for a supported shape. The pointer is null for ops that do not route,
  // because they need no workspace.
  size_t (*workspace_bytes)(const RoutingShape& shape) = nullptr;
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // Throws std::bad_alloc.
  Plugin(const Op& op, const ops::Settings& settings);
  Plugin(const Plugin&) = delete;  // fields_ and field_collection_ contain pointers to this object's own members
  Plugin& operator=(const Plugin&) = delete;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return op_.spec.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t in_count,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t out_count) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t out_count, const nvinfer1::DataType* input_types,
                             int32_t in_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t in_count, const nvinfer1::DimsExprs* shape_inputs,
                          int32_t shape_input_count, nvinfer1::DimsExprs* outputs, int32_t out_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* in_out, int32_t in_count,
                                 int32_t out_count) noexcept override;
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(op_.spec.needed_outputs()); }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t in_count,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t out_count) const noexcept override;
  const char* getTimingCacheID() noexcept override { return description_.c_str(); }
  const char* getMetadataString() noexcept override { return description_.c_str(); }

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t in_count, const nvinfer1::PluginTensorDesc* out,
                        int32_t out_count) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &field_collection_; }

 private:
  // Returns body(). If body() throws an exception, logs the exception's message, reports it to the context's error
  // recorder, and returns `failed`.
  template <class Result, class Body>
  Result guarded(Result failed, Body body) const noexcept;

  void check_counts(int32_t in_count, int32_t out_count) const;

  // Returns the declaration of the input or output at `position`. Positions count all inputs first, and then the
  // outputs.
  const ops::ValueSpec& value_spec(size_t position) const;

  // Reads the sizes of all dimensions of the op into `sizes`, and checks them against the op's limits. `shape_of(i)`
  // must return the shape of input i. For an op that routes, returns the routing shape. Throws OpError if a size is
  // invalid.
  template <class ShapeOf>
  RoutingShape read_sizes(ShapeOf shape_of, ops::Sizes& sizes) const;

  // Reads and returns the types of the inputs. `type_of(i)` must return the type of input i. Throws OpError if the op
  // does not accept one of the types.
  template <class TypeOf>
  ops::Types read_types(TypeOf type_of) const;

  const Op& op_;
  const ops::Node node_;
  const std::vector<size_t> inputs_;  // indices of the inputs that are tensors rather than settings
  const std::string description_;
  std::array<int32_t, std::size(ops::kSettings)> field_values_{};
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_collection_;
  nvinfer1::IPluginResourceContext* context_ = nullptr;  // null if this plugin is not attached to a context
};

}  // namespace vmoe::tensorrt
