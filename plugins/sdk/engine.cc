#include "sdk/engine.h"

#include <unistd.h>

#include <cstring>
#include <exception>
#include <future>
#include <iterator>
#include <new>
#include <utility>

#include "sdk/error.h"
#include "sdk/images.h"
#include "sdk/op_library.h"
#include "sdk/setting.h"
#include "sdk/shared_sessions.h"

namespace vmoe::sdk {

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kAttempts = 3;

void check_threads(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    fail(VMOE_RUNTIME_ERROR, "threads must be a whole number from 1 to ", kMaxThreads, ", or 0, not ", threads);
  }
}

void check_room(int64_t images, int64_t output_size, size_t room) {
  // Counts below 1 are the images' fault.
  if (images < 1 || static_cast<WideInt>(images) * output_size <= static_cast<WideInt>(room)) return;
  fail(VMOE_ARGUMENT_ERROR, "the output has room for ", room, " floats, and ", images, " images give ", output_size,
       " each");
}

std::string profile_names(const Manifest& manifest) {
  std::string names;
  for (const Profile& profile : manifest.profiles) names += (names.empty() ? "" : ", ") + profile.name;
  return names;
}

// The integers that a graph takes for a setting.
std::vector<int64_t> settings_of(const Profile& profile, int field) {
  switch (field) {
    case VMOE_SET_K: return {profile.k};
    case VMOE_SET_BPR: return {profile.bpr ? 1 : 0};
    case VMOE_SET_POOL: return {profile.pool ? 1 : 0};
    case VMOE_SET_MAX_EXPERTS: return {profile.max_experts};
    default: return profile.capacity;
  }
}

InputTensor settings_tensor(const char* name, const std::vector<int64_t>& values) {
  return {name,
          ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
          values.data(),
          values.size() * sizeof(int64_t),
          {static_cast<int64_t>(values.size())}};
}

}  // namespace

Engine::Engine(const std::string& path, const vmoe_load_options& options)
    : process_(getpid()), threads_(options.threads) {
  // A bundle may be replaced by a new export at any time.
  for (int attempt = 1;; ++attempt) {
    try {
      load(path, options);
      return;
    } catch (const ChangedError&) {
      if (attempt == kAttempts) throw;
    }
  }
}

Engine::~Engine() {
  // A forked process has none of the threads that the session would wait for: it is never freed there.
  if (getpid() != process_) (void)new (std::nothrow) std::shared_ptr<Session>(std::move(session_));
}

void Engine::load(const std::string& path, const vmoe_load_options& options) {
  const Bundle bundle = Bundle::open(path, options.verify != 0);
  manifest_ = bundle.manifest();
  profile_ = named_profile(options.profile);
  check_threads(threads_);
  std::shared_ptr<Session> session;
  try {
    session = load_session(bundle, options);
  } catch (const Error&) {
    bundle.check_unchanged();  // the better explanation
    throw;
  }
  bundle.check_unchanged();
  session_ = std::move(session);
  runtime_ = session_->description() + find_op_library().failure;
}

std::shared_ptr<Session> Engine::load_session(const Bundle& bundle, const vmoe_load_options& options) const {
  const OnnxRuntime& runtime = find_onnxruntime(options.onnxruntime != nullptr ? options.onnxruntime : "");
  const std::string& op_library = find_op_library().path;
  // A forked process shares none of its parent's sessions.
  const std::string key = std::to_string(process_) + ' ' + std::to_string(threads_) + ' ' + runtime.version + ' ' +
                          std::to_string(reinterpret_cast<uintptr_t>(runtime.api)) + ' ' + op_library + ' ' +
                          bundle.content_key();
  // The weights are hashed while the runtime loads them: neither waits for the other.
  auto weights = std::async(std::launch::async, [&] {
    if (options.verify != 0) bundle.verify_weights();
  });
  std::shared_ptr<Session> session;
  std::exception_ptr failure;
  try {
    session = find_or_load_session(key, [&] {
      const BundleGraph graph = bundle.graph(op_library.empty() ? kInlinedGraph : kCanonicalGraph);
      return std::make_shared<Session>(runtime, graph, threads_, op_library);
    });
  } catch (...) {
    failure = std::current_exception();
  }
  weights.get();  // changed weights are the better explanation of whatever else went wrong
  if (failure != nullptr) std::rethrow_exception(failure);
  return session;
}

std::optional<Profile> Engine::named_profile(const char* name) const {
  const Manifest& manifest = manifest_;
  if (name == nullptr) {
    return manifest.profiles.empty() ? std::nullopt : std::optional(manifest.profiles.front());
  }
  if (const Profile* stored = manifest.find_profile(name)) return *stored;
  if (!manifest.rules) fail(VMOE_ROUTING_ERROR, "this is a dense model: it has no profile ", in_quotes(name));
  if (manifest.kind().settings() == 0) {
    fail(VMOE_ROUTING_ERROR, "there is no profile ", in_quotes(name), "; Soft MoE has nothing to set");
  }
  if (const auto profile = manifest.rules->named_profile(name)) return profile;
  fail(VMOE_ROUTING_ERROR, "there is no profile ", in_quotes(name), "; the bundle has ", profile_names(manifest),
       ", and ", manifest.rules->name_examples());
}

std::optional<Profile> Engine::setting(const vmoe_setting& setting) const {
  check_fields(setting);
  auto base = setting.profile == nullptr ? profile_ : named_profile(setting.profile);
  manifest().kind().check_settings(setting.set);
  const auto& rules = manifest().rules;
  if (setting.set == 0 || !base || !rules) return base;
  return replaced(*rules, *base, setting);
}

void Engine::check_process() const {
  if (getpid() == process_) return;
  fail(VMOE_RUNTIME_ERROR,
       "the engine was loaded before this process was forked, and none of its threads came along; "
       "load it in each process that uses it");
}

std::vector<OutputTensor> Engine::run_graph(const vmoe_images& images, const std::optional<Profile>& profile,
                                            const std::vector<std::string>& outputs) const {
  const Batch batch = make_batch(images, manifest());
  std::vector<InputTensor> inputs{batch.image};
  std::vector<std::vector<int64_t>> values;
  values.reserve(std::size(kSettingFields));  // inputs point into them
  for (const SettingField& field : kSettingFields) {
    if (!profile || (manifest().kind().settings() & field.bit) == 0) continue;
    values.push_back(settings_of(*profile, field.bit));
    inputs.push_back(settings_tensor(field.name, values.back()));
  }
  return session_->run(inputs, outputs);
}

void Engine::run(const vmoe_images& images, const vmoe_setting& setting, float* output, size_t output_size) const {
  check_room(images.count, manifest().output_floats(), output_size);
  const std::string name = manifest().output_name();
  check_process();
  const auto results = run_graph(images, this->setting(setting), {name});
  std::vector<int64_t> shape;
  const void* data = results[0].data(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, name, shape);
  if (shape != manifest().output_shape(images.count)) {
    fail(VMOE_RUNTIME_ERROR, "the graph's output ", in_quotes(name),
         " has another shape than the manifest says: ", images.count, " images of ", manifest().output_floats(),
         " floats");
  }
  std::memcpy(output, data, static_cast<size_t>(images.count * manifest().output_floats()) * sizeof(float));
}

std::vector<LayerRouting> Engine::routing(const vmoe_images& images, const vmoe_setting& setting) const {
  check_process();
  const auto profile = this->setting(setting);
  auto names = routing_outputs(manifest());
  // A graph must be asked for something.
  if (names.empty()) names.emplace_back(manifest().output_name());
  return read_routing(run_graph(images, profile, names), manifest(), profile);
}

}  // namespace vmoe::sdk
