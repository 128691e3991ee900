// A graph that is loaded for the CPU. Any number of threads may run it.
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

// An input or output of a graph: its element type, and its extents; a variable extent is -1.
struct Port {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
};

using Ports = std::map<std::string, Port>;

// Lists the names of the ports, such as "capacity, image"; returns "nothing" if there are no ports.
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

  // Returns the data and sets `shape`. The type of the data is the one that Session::outputs() reports.
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
  // threads: number of intra-op threads. 0 is the default: ONNX Runtime's choice, limited by processor_limit().
  // spin: whether threads wait for more work by spinning after a call.
  // op_library: registered if its path is not empty.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime can't load the graph or the op library.
  Session(const OnnxRuntime& runtime, const BundleGraph& graph, int threads, bool spin, const OpLibrary& op_library);

  // Runs the graph and returns the named outputs in order.
  //
  // cancellation: null for a call that cannot be cancelled.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime fails, and VMOE_CANCELLED if the call is cancelled.
  std::vector<OutputTensor> run(const std::vector<InputTensor>& inputs, const std::vector<std::string>& outputs,
                                Cancellation* cancellation) const;

  // Returns a description of the runtime: its name and version, and whether it uses the op library or standard ops.
  std::string description() const;

  bool uses_op_library() const { return !op_library_.path.empty(); }

  // All inputs of the graph, including those with default values, because a call must pass every setting explicitly.
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
