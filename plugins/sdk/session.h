// One loaded graph on the CPU, for any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sdk/bundle.h"
#include "sdk/cancellation.h"
#include "sdk/onnxruntime_library.h"
#include "sdk/op_library.h"

namespace vmoe::sdk {

// What a graph takes or outputs: element type and extents, -1 where one varies.
struct Port {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
};

using Ports = std::map<std::string, Port>;

// "capacity, image"; "nothing" of none.
std::string names(const Ports& ports);

// A graph input, not owned: `data` is read during the call only.
struct InputTensor {
  const char* name;
  ONNXTensorElementDataType dtype;
  const void* data;
  size_t bytes;
  std::vector<int64_t> shape;
};

// A graph output, owned.
class OutputTensor {
 public:
  OutputTensor(const OrtApi& api, OrtValue* value) : value_(value, api.ReleaseValue), api_(&api) {}

  // The data, of the type that the session reports. Sets `shape`.
  const void* data(std::vector<int64_t>& shape) const;

 private:
  std::unique_ptr<OrtValue, void(ORT_API_CALL*)(OrtValue*)> value_;
  const OrtApi* api_;
};

class Session {
 public:
  // graph: of a bundle; its bytes are not needed afterwards.
  // threads: intra-op threads, or 0 for the runtime's own choice.
  // spin: whether they may go on looking for work after a call.
  // op_library: the one to register, if it has a path.
  //
  // Throws VMOE_RUNTIME_ERROR: ONNX Runtime can't load the graph or the op library.
  Session(const OnnxRuntime& runtime, const BundleGraph& graph, int threads, bool spin, const OpLibrary& op_library);

  // Values of the outputs that are named, in order.
  //
  // cancellation: null for a call that nobody ends.
  //
  // Throws VMOE_RUNTIME_ERROR: the runtime failed. Throws VMOE_CANCELLED.
  std::vector<OutputTensor> run(const std::vector<InputTensor>& inputs, const std::vector<std::string>& outputs,
                                Cancellation* cancellation) const;

  // Runtime and version, and whether the op library is used.
  std::string description() const;

  bool uses_op_library() const { return !op_library_.path.empty(); }

  // Also those with default values, which must not stand in for a setting.
  const Ports& inputs() const { return inputs_; }
  const Ports& outputs() const { return outputs_; }

 private:
  const OnnxRuntime& runtime_;
  const OpLibrary& op_library_;
  std::unique_ptr<OrtSession, void(ORT_API_CALL*)(OrtSession*)> session_;
  Ports inputs_, outputs_;
  std::unique_ptr<OrtMemoryInfo, void(ORT_API_CALL*)(OrtMemoryInfo*)> memory_;
};

}  // namespace vmoe::sdk
