#include "sdk/onnxruntime_library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "sdk/error.h"
#include "sdk/onnxruntime_log.h"

namespace vmoe::sdk {

namespace {

constexpr uint32_t kApiVersion = 21;
static_assert(ORT_API_VERSION >= kApiVersion, "the headers of ONNX Runtime 1.21 or newer are needed");

constexpr char kVariable[] = "VMOE_ONNXRUNTIME";
constexpr char kEntryPoint[] = "OrtGetApiBase";
constexpr const char* kNames[] = {"libonnxruntime.so", "libonnxruntime.so.1"};
constexpr char kNoTelemetry[] = "ORT_DISABLE_TELEMETRY";
constexpr size_t kMaxMessage = 300;

using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();

// The entry point, and the library in words.
struct Found {
  GetApiBase entry = nullptr;
  std::string name;
};

GetApiBase entry_point(void* library) { return reinterpret_cast<GetApiBase>(dlsym(library, kEntryPoint)); }

// ONNX Runtime reads it when it is loaded. With telemetry, versions from 1.29 on look up a host and write files by
// themselves, and a process that is forked afterwards never ends. A value that is there stays.
void disable_telemetry() { setenv(kNoTelemetry, "1", 0); }

Found open_given(const std::string& path, const std::string& source) {
  disable_telemetry();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    fail(VMOE_RUNTIME_ERROR, "ONNX Runtime can't be loaded from ", source, ": ", reason != nullptr ? reason : path);
  }
  const GetApiBase entry = entry_point(library);
  if (entry == nullptr) fail(VMOE_RUNTIME_ERROR, path, " is not ONNX Runtime: it has no ", kEntryPoint);
  return {entry, path};
}

Found find_loaded() {
  if (const GetApiBase entry = entry_point(RTLD_DEFAULT)) return {entry, "the one of this process"};
  for (const char* name : kNames) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) {
      if (const GetApiBase entry = entry_point(library)) return {entry, name};
    }
  }
  return {};
}

Found find(const std::string& path) {
  if (!path.empty()) return open_given(path, in_quotes(path));
  if (Found loaded = find_loaded(); loaded.entry != nullptr) return loaded;
  const char* variable = std::getenv(kVariable);
  if (variable != nullptr && *variable != '\0') return open_given(variable, std::string(kVariable) + "=" + variable);
  disable_telemetry();
  for (const char* name : kNames) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
      if (const GetApiBase entry = entry_point(library)) return {entry, name};
    }
  }
  fail(VMOE_RUNTIME_ERROR, "ONNX Runtime was not found: there is no ", kNames[0], " or ", kNames[1],
       " on the library path; give its path in the load options or in ", kVariable);
}

// What can't be read is left to GetApi.
bool is_old(const char* version) {
  int major = 0, minor = 0;
  if (std::sscanf(version, "%d.%d", &major, &minor) != 2) return false;  // NOLINT(*-string-to-number-conversion)
  return major < 1 || (major == 1 && minor < static_cast<int>(kApiVersion));
}

std::unique_ptr<OnnxRuntime> open_runtime(const Found& found, const OrtApiBase& base) {
  const char* version = base.GetVersionString();
  // Asking an old library for a newer API prints, so the version is looked at first.
  const OrtApi* api = is_old(version) ? nullptr : base.GetApi(kApiVersion);
  if (api == nullptr) {
    fail(VMOE_RUNTIME_ERROR, "ONNX Runtime ", version, " (", found.name, ") is too old; 1.", kApiVersion,
         " or newer is needed");
  }
  OrtEnv* env = nullptr;
  const OrtLoggingLevel severity = onnxruntime_severity();
  // The process has one environment, and the rest of it logs there, too: its messages are not taken unasked.
  check(*api,
        severity == ORT_LOGGING_LEVEL_FATAL
            ? api->CreateEnv(severity, "vmoe", &env)
            : api->CreateEnvWithCustomLogger(log_of_onnxruntime, nullptr, severity, "vmoe", &env),
        "ONNX Runtime can't start");
  return std::make_unique<OnnxRuntime>(OnnxRuntime{api, env, version});
}

}  // namespace

const OnnxRuntime& find_onnxruntime(const std::string& path) {
  // Never destroyed: threads of the runtime may outlive every static object.
  static auto& mutex = *new std::mutex;
  static auto& runtimes = *new std::map<const OrtApiBase*, std::unique_ptr<OnnxRuntime>>;
  const std::lock_guard lock(mutex);
  const Found found = find(path);
  const OrtApiBase* base = found.entry();
  if (base == nullptr) fail(VMOE_RUNTIME_ERROR, found.name, " gives no API of ONNX Runtime");
  auto& runtime = runtimes[base];
  if (runtime == nullptr) runtime = open_runtime(found, *base);
  return *runtime;
}

void check(const OrtApi& api, OrtStatus* status, const std::string& what) {
  if (status == nullptr) return;
  const std::unique_ptr<OrtStatus, void(ORT_API_CALL*)(OrtStatus*)> owner(status, api.ReleaseStatus);
  std::string_view message = api.GetErrorMessage(status);
  // It names a path that stands in `what` anyway.
  constexpr std::string_view kPrefix = "Load model from ", kEnd = " failed:";
  if (message.substr(0, kPrefix.size()) == kPrefix) {
    if (const size_t end = message.find(kEnd); end != std::string_view::npos) message.remove_prefix(end + kEnd.size());
  }
  message = message.substr(0, message.find('\n')).substr(0, kMaxMessage);
  fail(VMOE_RUNTIME_ERROR, what, ": ", message);
}

}  // namespace vmoe::sdk
