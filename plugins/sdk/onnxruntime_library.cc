#include "sdk/onnxruntime_library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "sdk/error.h"
#include "sdk/log.h"
#include "sdk/op_library.h"

namespace vmoe::sdk {

namespace {

static_assert(ORT_API_VERSION >= VMOE_OLDEST_ONNXRUNTIME, "newer headers of ONNX Runtime are needed");

constexpr char kVariable[] = "VMOE_ONNXRUNTIME";
constexpr char kEntryPoint[] = "OrtGetApiBase";
constexpr char kPrefix[] = "libonnxruntime.";
#if defined(__APPLE__)
constexpr const char* kNames[] = {"libonnxruntime.dylib", "libonnxruntime.1.dylib"};
#else
constexpr const char* kNames[] = {"libonnxruntime.so", "libonnxruntime.so.1"};
#endif
constexpr char kSharedOnnx[] = "libonnx.so.1";
constexpr char kNoTelemetry[] = "ORT_DISABLE_TELEMETRY";
constexpr size_t kMaxMessage = 300;

using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();

// An ONNX Runtime library that was found: its entry point, and its name for messages.
struct Found {
  GetApiBase entry = nullptr;
  std::string name;
};

GetApiBase entry_point(void* library) { return reinterpret_cast<GetApiBase>(dlsym(library, kEntryPoint)); }

// Disables telemetry, unless the environment variable is already set. ONNX Runtime reads the variable when it is
// loaded. If telemetry is on, ONNX Runtime 1.29 and later look up a host name and write files without the user's
// consent. In addition, a process that is forked after the loading then never ends.
void disable_telemetry() { setenv(kNoTelemetry, "1", 0); }

Found open_given(const std::string& path, const std::string& source) {
  disable_telemetry();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(VMOE_RUNTIME_ERROR, "ONNX Runtime can't be loaded from ", source, ": ", dlerror());
  const GetApiBase entry = entry_point(library);
  if (entry == nullptr) fail(VMOE_RUNTIME_ERROR, path, " is not ONNX Runtime: it has no ", kEntryPoint);
  return {entry, path};
}

Found open_first(const std::vector<std::string>& paths, int mode) {
  for (const std::string& path : paths) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | mode)) {
      if (const GetApiBase entry = entry_point(library)) return {entry, path};
    }
  }
  return {};
}

Found find_loaded() {
  if (const GetApiBase entry = entry_point(RTLD_DEFAULT)) return {entry, "the one of this process"};
  return open_first({std::begin(kNames), std::end(kNames)}, RTLD_NOLOAD);
}

// Returns the paths to try if the caller gave no path. The first path belongs to the onnxruntime package in the Python
// environment in which this library's own package is installed. The others are file names that the loader looks for on
// the library path.
std::vector<std::string> candidates() {
  std::vector<std::string> paths;
  const std::filesystem::path package = own_folder().parent_path();
  if (package.filename() == "vmoe_runtime") {
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator(package.parent_path() / "onnxruntime" / "capi", error)) {
      if (entry.path().filename().string().rfind(kPrefix, 0) == 0) paths.push_back(entry.path().string());
    }
  }
  paths.insert(paths.end(), std::begin(kNames), std::end(kNames));
  return paths;
}

Found find(const std::string& path) {
  if (!path.empty()) return open_given(path, in_quotes(path));
  if (Found loaded = find_loaded(); loaded.entry != nullptr) return loaded;
  const char* variable = std::getenv(kVariable);
  if (variable != nullptr && *variable != '\0') return open_given(variable, std::string(kVariable) + "=" + variable);
  disable_telemetry();
  if (Found installed = open_first(candidates(), RTLD_LOCAL); installed.entry != nullptr) return installed;
  fail(VMOE_RUNTIME_ERROR, "ONNX Runtime was not found: there is no ", kNames[0], " or ", kNames[1],
       " on the library path; give its path in the load options or in ", kVariable);
}

// Returns whether a version is too old. Returns false if the version can't be parsed. GetApi then decides whether the
// version is supported.
bool is_old(const char* version) {
  int major = 0, minor = 0;
  if (std::sscanf(version, "%d.%d", &major, &minor) != 2) return false;  // NOLINT(*-string-to-number-conversion)
  return major < 1 || (major == 1 && minor < VMOE_OLDEST_ONNXRUNTIME);
}

std::unique_ptr<OnnxRuntime> open_runtime(const Found& found, const OrtApiBase& base) {
  const char* version = base.GetVersionString();
  // Checks the version before calling GetApi, because an old library prints a message if a newer API is requested.
  const OrtApi* api = is_old(version) ? nullptr : base.GetApi(VMOE_OLDEST_ONNXRUNTIME);
  if (api == nullptr) {
    fail(VMOE_RUNTIME_ERROR, "ONNX Runtime ", version, " (", found.name, ") is too old; 1.", VMOE_OLDEST_ONNXRUNTIME,
         " or newer is needed");
  }
  if (dlopen(kSharedOnnx, RTLD_LAZY | RTLD_NOLOAD) != nullptr) {
    log(VMOE_LOG_WARNING, "ONNX Runtime ", version, " (", found.name, ") registers its ops in ", kSharedOnnx,
        ", which has them already: each prints a harmless line \"Schema error\" to stderr. Another build, such as that "
        "in pip's onnxruntime, prints none: give its path in ",
        kVariable);
  }
  OrtEnv* env = nullptr;
  const OrtLoggingLevel severity = onnxruntime_severity();
  // A process has only one ONNX Runtime environment, and its logger receives the messages of all ONNX Runtime users. If
  // no log callback is set, this library does not replace that logger.
  check(*api,
        severity == ORT_LOGGING_LEVEL_FATAL
            ? api->CreateEnv(severity, "vmoe", &env)
            : api->CreateEnvWithCustomLogger(log_of_onnxruntime, nullptr, severity, "vmoe", &env),
        "ONNX Runtime can't start");
  return std::make_unique<OnnxRuntime>(OnnxRuntime{api, env, version});
}

// Returns whether a message is ONNX Runtime's warning about settings. The warning is meant for graphs in which
// constants are graph inputs by accident. In a bundle, the settings are graph inputs with default values on purpose.
bool is_about_settings(std::string_view message) {
  return message.find("appears in graph inputs and will not be treated as constant") != std::string_view::npos;
}

// Returns the log level for an ONNX Runtime severity. INFO becomes DEBUG, because a load produces hundreds of INFO
// messages. None of these messages says what was loaded.
vmoe_log_level level_of(OrtLoggingLevel severity) {
  if (severity >= ORT_LOGGING_LEVEL_ERROR) return VMOE_LOG_ERROR;
  return severity == ORT_LOGGING_LEVEL_WARNING ? VMOE_LOG_WARNING : VMOE_LOG_DEBUG;
}

}  // namespace

const OnnxRuntime& find_onnxruntime(const std::string& path) {
  // Never destroyed, because ONNX Runtime's threads may outlive every static object.
  static auto& mutex = *new std::mutex;
  static auto& runtimes = *new std::map<const OrtApiBase*, std::unique_ptr<OnnxRuntime>>;
  const std::lock_guard lock(mutex);
  const Found found = find(path);
  const OrtApiBase* base = found.entry();
  if (base == nullptr) fail(VMOE_RUNTIME_ERROR, found.name, " provides no API of ONNX Runtime");
  auto& runtime = runtimes[base];
  if (runtime == nullptr) runtime = open_runtime(found, *base);
  return *runtime;
}

OrtLoggingLevel onnxruntime_severity() {
  for (const auto severity : {ORT_LOGGING_LEVEL_INFO, ORT_LOGGING_LEVEL_WARNING, ORT_LOGGING_LEVEL_ERROR}) {
    if (is_logged(level_of(severity))) return severity;
  }
  return ORT_LOGGING_LEVEL_FATAL;
}

void ORT_API_CALL log_of_onnxruntime(void* /*unused*/, OrtLoggingLevel severity, const char* /*category*/,
                                     const char* /*logger*/, const char* /*place*/, const char* message) {
  log(is_about_settings(message) ? VMOE_LOG_DEBUG : level_of(severity), "ONNX Runtime: ", message);
}

void check(const OrtApi& api, OrtStatus* status, const std::string& what) {
  if (status == nullptr) return;
  const std::unique_ptr<OrtStatus, void(ORT_API_CALL*)(OrtStatus*)> owner(status, api.ReleaseStatus);
  std::string_view message = api.GetErrorMessage(status);
  // Removes the prefix that contains the path, because `what` already contains the path.
  constexpr std::string_view kPrefix = "Load model from ", kEnd = " failed:";
  if (message.substr(0, kPrefix.size()) == kPrefix) {
    if (const size_t end = message.find(kEnd); end != std::string_view::npos) message.remove_prefix(end + kEnd.size());
  }
  message = message.substr(0, message.find('\n')).substr(0, kMaxMessage);
  fail(VMOE_RUNTIME_ERROR, what, ": ", message);
}

}  // namespace vmoe::sdk
