// A node of one of the ops, as TensorRT's IPluginV3. No function throws: an error is logged as a message and returned
// as a status.
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

// An op: its declaration, which determines shapes, types, formats, limits and errors, and the function that puts the op
// on a stream.
struct Op {
  const ops::OpSpec& spec;
  cudaError_t (*put)(const cuda::OpCall& call);
  // Returns the size in bytes of the workspace for a supported shape. Null for ops that do not route, which need no
  // workspace.
  size_t (*workspace_bytes)(const RoutingShape& shape) = nullptr;
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // Throws std::bad_alloc.
  Plugin(const Op& op, const ops::Settings& settings);
  Plugin(const Plugin&) = delete;  // fields_ and field_collection_ point to its own members
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
  // Returns body(). If body() throws, logs the message, reports it to the context's error recorder, and returns
  // `failed`.
  template <class Result, class Body>
  Result guarded(Result failed, Body body) const noexcept;

  void check_counts(int32_t in_count, int32_t out_count) const;

  // Returns the declaration of the input or output at `position`; positions number the inputs first, then the outputs.
  const ops::ValueSpec& value_spec(size_t position) const;

  // Reads the sizes of all dimensions of the op and checks them against its limits. If the op routes, returns its
  // routing. `shape_of(i)` is the shape of input i. Throws OpError.
  template <class ShapeOf>
  RoutingShape read_sizes(ShapeOf shape_of, ops::Sizes& sizes) const;

  // Reads the types of the inputs. Throws OpError if the op does not accept the type of an input.
  template <class TypeOf>
  ops::Types read_types(TypeOf type_of) const;

  const Op& op_;
  const ops::Node node_;
  const std::vector<size_t> inputs_;  // the inputs that are tensors, not settings
  const std::string description_;
  std::array<int32_t, std::size(ops::kSettings)> field_values_{};
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_collection_;
  nvinfer1::IPluginResourceContext* context_ = nullptr;  // null if this plugin is not attached to a context
};

}  // namespace vmoe::tensorrt
