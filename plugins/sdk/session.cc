#include "sdk/session.h"

#include "sdk/error.h"
#include "sdk/processor_limit.h"

namespace vmoe::sdk {

namespace {

constexpr char kStopSpinning[] = "session.force_spinning_stop";
constexpr char kWeightsFolder[] = "session.model_external_initializers_file_folder_path";

using Options = std::unique_ptr<OrtSessionOptions, void(ORT_API_CALL*)(OrtSessionOptions*)>;
using ShapeInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, void(ORT_API_CALL*)(OrtTensorTypeAndShapeInfo*)>;

Options make_options(const OrtApi& api, int threads, bool spin) {
  const std::string what = "ONNX Runtime refuses the session options";
  OrtSessionOptions* created = nullptr;
  check(api, api.CreateSessionOptions(&created), what);
  Options options(created, api.ReleaseSessionOptions);
  // Sends log messages to log_of_onnxruntime, even if another user of ONNX Runtime in this process created the
  // environment.
  check(api, api.SetUserLoggingFunction(created, log_of_onnxruntime, nullptr), what);
  check(api, api.SetSessionLogSeverityLevel(created, onnxruntime_severity()), what);
  check(api, api.SetInterOpNumThreads(created, 1), what);
  if (!spin) check(api, api.AddSessionConfigEntry(created, kStopSpinning, "1"), what);
  if (threads == 0) threads = processor_limit();
  if (threads > 0) check(api, api.SetIntraOpNumThreads(created, threads), what);
  return options;
}

Port port_of(const OrtApi& api, const OrtTypeInfo* info) {
  const std::string what = "ONNX Runtime can't describe the graph";
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api, api.CastTypeInfoToTensorInfo(info, &tensor), what);
  Port port;
  if (tensor == nullptr) return port;
  size_t rank = 0;
  check(api, api.GetTensorElementType(tensor, &port.type), what);
  check(api, api.GetDimensionsCount(tensor, &rank), what);
  port.shape.resize(rank);
  check(api, api.GetDimensions(tensor, port.shape.data(), rank), what);
  return port;
}

using CountPorts = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t*);
using GetName = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t, OrtAllocator*, char**);
using GetType = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t, OrtTypeInfo**);

void add_ports(const OrtApi& api, const OrtSession* session, CountPorts count_ports, GetName get_name, GetType get_type,
               Ports& ports) {
  const std::string what = "ONNX Runtime can't describe the graph";
  OrtAllocator* allocator = nullptr;
  check(api, api.GetAllocatorWithDefaultOptions(&allocator), what);
  size_t count = 0;
  check(api, count_ports(session, &count), what);
  for (size_t i = 0; i < count; ++i) {
    OrtTypeInfo* created = nullptr;
    check(api, get_type(session, i, &created), what);
    const std::unique_ptr<OrtTypeInfo, void(ORT_API_CALL*)(OrtTypeInfo*)> info(created, api.ReleaseTypeInfo);
    char* name = nullptr;
    check(api, get_name(session, i, allocator, &name), what);
    ports[name] = port_of(api, created);
    check(api, api.AllocatorFree(allocator, name), what);
  }
}

}  // namespace

std::string names(const Ports& ports) {
  std::string list;
  for (const auto& [name, port] : ports) list += (list.empty() ? "" : ", ") + name;
  return list.empty() ? "nothing" : list;
}

const void* OutputTensor::data(std::vector<int64_t>& shape) const {
  const std::string what = "ONNX Runtime gives no readable output";
  OrtTensorTypeAndShapeInfo* created = nullptr;
  check(*api_, api_->GetTensorTypeAndShape(value_.get(), &created), what);
  const ShapeInfo info(created, api_->ReleaseTensorTypeAndShapeInfo);
  size_t rank = 0;
  check(*api_, api_->GetDimensionsCount(created, &rank), what);
  shape.resize(rank);
  check(*api_, api_->GetDimensions(created, shape.data(), rank), what);
  void* data = nullptr;
  check(*api_, api_->GetTensorMutableData(value_.get(), &data), what);
  return data;
}

Session::Session(const OnnxRuntime& runtime, const BundleGraph& graph, int threads, bool spin,
                 const OpLibrary& op_library)
    : runtime_(runtime),
      op_library_(op_library),
      session_(nullptr, runtime.api->ReleaseSession),
      memory_(nullptr, runtime.api->ReleaseMemoryInfo) {
  const OrtApi& api = *runtime.api;
  const Options options = make_options(api, threads, spin);
  if (uses_op_library()) {
    check(api, api.RegisterCustomOpsLibrary_V2(options.get(), op_library.path.c_str()),
          "ONNX Runtime " + runtime.version + " can't use the op library " + op_library.path);
  }
  OrtSession* session = nullptr;
  check(api, api.AddSessionConfigEntry(options.get(), kWeightsFolder, graph.folder.c_str()),
        "ONNX Runtime refuses the session options");
  // Loads the bytes that were checked. The file is not read a second time, because it may have changed since the check.
  check(api, api.CreateSessionFromArray(runtime.env, graph.bytes.data(), graph.bytes.size(), options.get(), &session),
        "ONNX Runtime can't load " + graph.path);
  session_.reset(session);
  add_ports(api, session, api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo, inputs_);
  add_ports(api, session, api.SessionGetOverridableInitializerCount, api.SessionGetOverridableInitializerName,
            api.SessionGetOverridableInitializerTypeInfo, inputs_);
  add_ports(api, session, api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo, outputs_);
  OrtMemoryInfo* memory = nullptr;
  check(api, api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "ONNX Runtime has no CPU memory");
  memory_.reset(memory);
}

std::vector<OutputTensor> Session::run(const std::vector<InputTensor>& inputs, const std::vector<std::string>& outputs,
                                       Cancellation* cancellation) const {
  const OrtApi& api = *runtime_.api;
  std::vector<OutputTensor> owners;
  std::vector<const OrtValue*> values;
  std::vector<const char*> names, output_names;
  for (const InputTensor& input : inputs) {
    OrtValue* value = nullptr;
    // The C API takes a mutable pointer, but does not write to an input.
    check(api,
          api.CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<void*>(input.data), input.bytes,
                                             input.shape.data(), input.shape.size(), input.dtype, &value),
          "ONNX Runtime can't take the input " + in_quotes(input.name));
    owners.emplace_back(api, value);
    values.push_back(value);
    names.push_back(input.name);
  }
  for (const std::string& name : outputs) output_names.push_back(name.c_str());
  std::vector<OrtValue*> found(outputs.size(), nullptr);
  const RunOptions options(api, cancellation);
  OrtStatus* status = api.Run(session_.get(), options.get(), names.data(), values.data(), values.size(),
                              output_names.data(), output_names.size(), found.data());
  std::vector<OutputTensor> results;
  results.reserve(found.size());
  for (OrtValue* value : found) results.emplace_back(api, value);
  try {
    check(api, status, "ONNX Runtime failed");
  } catch (const Error&) {
    if (cancellation != nullptr) cancellation->check();  // throws VMOE_CANCELLED if the call was cancelled
    throw;
  }
  return results;
}

std::string Session::description() const {
  return "ONNX Runtime " + runtime_.version + " CPU, " +
         (uses_op_library() ? "vmoe op library, " + op_library_.cpu_path : std::string("standard ops"));
}

}  // namespace vmoe::sdk
