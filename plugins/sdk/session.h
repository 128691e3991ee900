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

// The type and shape of a graph's input or output. An extent is -1 if it is variable.
struct Port {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
};

using Ports = std::map<std::string, Port>;

// Lists the names of the ports, such as "capacity, image". Returns "nothing" if there are no ports.
std::string names(const Ports& ports);

// A graph input. It does not own `data`, which is read only during the call.
struct InputTensor {
  const char* name;
  ONNXTensorElementDataType dtype;
  const void* data;
  size_t bytes;
  std::vector<int64_t> shape;
};

// A graph output. It owns its data.
class OutputTensor {
 public:
  OutputTensor(const OrtApi& api, OrtValue* value) : value_(value, api.ReleaseValue), api_(&api) {}

  // Returns the data and writes its shape to `shape`. Session::outputs() gives the data's type.
  const void* data(std::vector<int64_t>& shape) const;

 private:
  std::unique_ptr<OrtValue, void(ORT_API_CALL*)(OrtValue*)> value_;
  const OrtApi* api_;
};

class Session {
 public:
  // Loads a graph.
  //
  // graph: may be freed when the constructor has returned.
  // threads: number of intra-op threads. If 0, ONNX Runtime chooses the number, but not more than processor_limit().
  // spin: whether threads spin after a call while they wait for more work.
  // op_library: registered with ONNX Runtime if its path is not empty.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime can't load the graph or the op library.
  Session(const OnnxRuntime& runtime, const BundleGraph& graph, int threads, bool spin, const OpLibrary& op_library);

  // Runs the graph. Returns the outputs whose names are in `outputs`, in the order of `outputs`.
  //
  // cancellation: null for a call that cannot be cancelled.
  //
  // Throws VMOE_RUNTIME_ERROR if ONNX Runtime fails, and VMOE_CANCELLED if the call is cancelled.
  std::vector<OutputTensor> run(const std::vector<InputTensor>& inputs, const std::vector<std::string>& outputs,
                                Cancellation* cancellation) const;

  // Returns a description of the runtime. It contains ONNX Runtime's name and version, and says whether the op library
  // or standard ops are used.
  std::string description() const;

  bool uses_op_library() const { return !op_library_.path.empty(); }

  // The graph's inputs, including those with default values. They are included because a call must pass every setting
  // explicitly.
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
