// Runs nodes of the TensorRT plugin on the emulator, in the order in which TensorRT calls its functions.
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "fake_runtime.h"

using gpu_emulator::device;

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept;

namespace {

using namespace nvinfer1;  // NOLINT(google-build-using-namespace)

struct Tensor {
  int32_t type;  // TensorRT's DataType
  int32_t rank;
  int64_t sizes[4];
  void* address;
};

IPluginCreatorV3One* find_creator(const char* op) {
  int32_t count = 0;
  IPluginCreatorInterface* const* const creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
    if (std::strcmp(creator->getPluginName(), op) == 0) return creator;
  }
  return nullptr;
}

}  // namespace

extern "C" {

// Makes a node of an op, and enqueues it on a stream. `settings` has the values of the creator's fields. `tensors` has
// the inputs and then the outputs. The workspace has exactly the size that the plugin reports. If `captured` is not
// null, the launches are captured instead of being run, and their number is written to `captured`. Returns null, or the
// name of the function that failed.
const char* emulator_enqueue(const char* op, const int32_t* settings, const Tensor* tensors, int32_t inputs,
                             int32_t outputs, void* stream_address, size_t* captured) {
  IPluginCreatorV3One* const creator = find_creator(op);
  if (creator == nullptr) return "getCreators";
  std::vector<PluginField> fields;
  for (int32_t i = 0; i < creator->getFieldNames()->nbFields; ++i) {
    fields.emplace_back(creator->getFieldNames()->fields[i].name, &settings[i], PluginFieldType::kINT32, 1);
  }
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  const std::unique_ptr<IPluginV3> plugin(creator->createPlugin("node", &collection, TensorRTPhase::kRUNTIME));
  if (plugin == nullptr) return "createPlugin";
  auto* const build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  std::vector<DynamicPluginTensorDesc> ranges(static_cast<size_t>(inputs + outputs));
  std::vector<PluginTensorDesc> fixed(ranges.size());
  std::vector<const void*> in;
  std::vector<void*> out;
  for (size_t i = 0; i < ranges.size(); ++i) {
    Dims dims{tensors[i].rank, {}};
    std::copy_n(tensors[i].sizes, tensors[i].rank, dims.d);
    fixed[i] = {dims, static_cast<DataType>(tensors[i].type), PluginFormat::kLINEAR, 1.0F};
    ranges[i].desc = fixed[i];
    ranges[i].min = ranges[i].opt = ranges[i].max = dims;
    if (i < static_cast<size_t>(inputs)) {
      in.push_back(tensors[i].address);
    } else {
      out.push_back(tensors[i].address);
    }
  }
  const DynamicPluginTensorDesc* const out_ranges = ranges.data() + inputs;
  const PluginTensorDesc* const out_fixed = fixed.data() + inputs;
  for (int32_t i = 0; i < inputs + outputs; ++i) {
    if (!build->supportsFormatCombination(i, ranges.data(), inputs, outputs)) return "supportsFormatCombination";
  }
  if (build->configurePlugin(ranges.data(), inputs, out_ranges, outputs) != 0) return "configurePlugin";
  const size_t bytes = build->getWorkspaceSize(ranges.data(), inputs, out_ranges, outputs);
  auto* const runtime =
      static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  const std::unique_ptr<IPluginV3> attached(runtime->attachToContext(nullptr));
  auto* const node =
      static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  if (node->onShapeChange(fixed.data(), inputs, out_fixed, outputs) != 0) return "onShapeChange";
  const uint64_t workspace = device().machine.memory().allocate(bytes);
  auto* const stream = static_cast<cudaStream_t>(stream_address);
  device().stream = stream;
  if (captured != nullptr) static_cast<void>(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const int32_t status =
      node->enqueue(fixed.data(), out_fixed, in.data(), out.data(), reinterpret_cast<void*>(workspace), stream);
  if (captured != nullptr) {
    static_cast<void>(cudaStreamEndCapture(stream, nullptr));
    *captured = device().captured;
  }
  device().stream = nullptr;
  device().machine.memory().release(workspace);
  return status == 0 ? nullptr : "enqueue";
}

}  // extern "C"
