// A graph that is loaded on the CPU. Any number of threads may run it.
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

// An input or output of a graph: its element type and extents; -1 for a variable extent.
struct Port {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
};

using Ports = std::map<std::string, Port>;

// Lists the names of the ports, such as "capacity, image"; "nothing" if there are none.
std::string names(const Ports& ports);

// A graph input; `data` is not owned, and is read only during the call.
struct InputTensor {
  const char* name;
  ONNXTensorElementDataType dtype;
  const void* data;
  size_t bytes;
  std::vector<int64_t> shape;
};

// A graph output, which owns its data.
class OutputTensor {
 public:
  OutputTensor(const OrtApi& api, OrtValue* value) : value_(value, api.ReleaseValue), api_(&api) {}

  // Returns the data, whose type the session reports, and sets `shape`.
  const void* data(std::vector<int64_t>& shape) const;

 private:
  std::unique_ptr<OrtValue, void(ORT_API_CALL*)(OrtValue*)> value_;
  const OrtApi* api_;
};

class Session {
 public:
  // Loads a graph.
  //
  // graph: its bytes are not needed after the constructor returns.
  // threads: intra-op threads, or 0 for the default: ONNX Runtime's choice, limited by processor_limit().
  // spin: whether threads spin after a call, waiting for work.
  // op_library: registered if it has a path.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime can't load the graph or the op library.
  Session(const OnnxRuntime& runtime, const BundleGraph& graph, int threads, bool spin, const OpLibrary& op_library);

  // Runs the graph and returns the named outputs in order.
  //
  // cancellation: null for a call that cannot be cancelled.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime fails, and VMOE_CANCELLED.
  std::vector<OutputTensor> run(const std::vector<InputTensor>& inputs, const std::vector<std::string>& outputs,
                                Cancellation* cancellation) const;

  // Describes the runtime, its version, and the op library or standard ops.
  std::string description() const;

  bool uses_op_library() const { return !op_library_.path.empty(); }

  // All inputs of the graph, including those with default values: a call must pass every setting explicitly.
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
