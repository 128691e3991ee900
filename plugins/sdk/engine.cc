#include "sdk/engine.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <exception>
#include <future>
#include <limits>
#include <new>
#include <thread>
#include <utility>

#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"
#include "sdk/generated/setting_rows.h"
#include "sdk/graph_interface.h"
#include "sdk/images.h"
#include "sdk/log.h"
#include "sdk/op_library.h"
#include "sdk/shared_sessions.h"

namespace vmoe::sdk {

namespace {

constexpr int kAttempts = 3;

bool are_finite(const float* values, size_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

void check_threads(int threads) {
  // Limits the number of threads, because starting hundreds of threads on a few CPUs takes minutes. The Python runtime
  // has the same limit.
  const int64_t most = std::max(kMaxThreads, kMaxThreadsPerProcessor * std::thread::hardware_concurrency());
  if (threads < 0 || threads > most) {
    fail(VMOE_RUNTIME_ERROR, "threads must be a whole number from 1 to ", most, " on this machine, or 0, not ",
         threads);
  }
}

void check_room(const vmoe_images& images, int64_t output_size, size_t room) {
  // A null pointer or an image count below 1 is not refused here, because check_images refuses it later.
  if (images.data == nullptr || images.count < 1) return;
  if (static_cast<WideInt>(images.count) * output_size <= static_cast<WideInt>(room)) return;
  fail(VMOE_ARGUMENT_ERROR, "the output has room for ", room, " floats, and ", images.count, " images give ",
       output_size, " each");
}

// Returns an output's values and their number. Throws VMOE_RUNTIME_ERROR if the output's shape differs from the shape
// in the manifest. Also throws it if all images are finite but some output values are not.
std::pair<const float*, size_t> checked_output(const vmoe_images& images, const GraphOutput& output,
                                               const OutputTensor& found) {
  std::vector<int64_t> shape, expected{images.count};
  expected.insert(expected.end(), output.shape.begin(), output.shape.end());
  const auto* data = static_cast<const float*>(found.data(shape));
  if (shape != expected) {
    fail(VMOE_RUNTIME_ERROR, "the graph's output ", in_quotes(output.name),
         " has another shape than the manifest says: ", images.count, " images of ", output.floats(), " floats");
  }
  const auto size = static_cast<size_t>(images.count * output.floats());
  const bool is_float = images.dtype == VMOE_FLOAT32;
  if (!are_finite(data, size) &&
      (!is_float || are_finite(static_cast<const float*>(images.data), images.data_bytes / sizeof(float)))) {
    fail(VMOE_RUNTIME_ERROR, "the model's ", output.name,
         " of finite images are not all finite numbers: its weights are damaged, or its precision has no room for its "
         "values");
  }
  return {data, size};
}

std::string profile_names(const Manifest& manifest) {
  std::string names;
  for (const Profile& profile : manifest.profiles) names += (names.empty() ? "" : ", ") + profile.name;
  return names;
}

// Logs a warning that bundles run on standard ops. The warning appears once per process, as soon as a log callback is
// set. If a bundle's precision is slower than fp32 on standard ops, a different warning appears, also once per process.
void warn_of_standard_ops(const std::string& failure, int32_t precision) {
  static std::array<std::atomic_flag, 2> warned = {};
  const bool is_short = precision != VMOE_FP32;
  if (!is_logged(VMOE_LOG_WARNING) || warned[is_short ? 1 : 0].test_and_set()) return;
  log(VMOE_LOG_WARNING, failure, "; bundles run on standard ops until then, which take several times as long",
      is_short
          ? ", and longer in this bundle's precision than in fp32: export it in fp32 to stay without the op library"
          : "");
}

}  // namespace

Engine::Engine(const std::string& path, const vmoe_load_options& options)
    : process_(getpid()), threads_(options.threads) {
  if (in_log_callback()) fail(VMOE_ARGUMENT_ERROR, "a log callback can't load a bundle: a load may be waiting for it");
  // A new export may replace the bundle during a load. If the bundle has changed, the load is repeated.
  for (int attempt = 1;; ++attempt) {
    try {
      load(path, options);
      return;
    } catch (const ChangedError&) {
      if (attempt == kAttempts) throw;
    }
    log(VMOE_LOG_WARNING, path, " was changed while it was loaded; it is loaded again");
  }
}

Engine::~Engine() {
  // A forked process leaks the sessions. Freeing a session waits for its threads, which do not exist in a forked
  // process.
  if (getpid() != process_) (void)new (std::nothrow) std::pair(std::move(session_), std::move(merging_session_));
}

void Engine::load(const std::string& path, const vmoe_load_options& options) {
  const auto start = std::chrono::steady_clock::now();
  const Bundle bundle(path, options.verify != 0);
  manifest_ = bundle.manifest();
  profile_ = named_profile(options.profile);
  check_threads(threads_);
  bool shares = true;
  try {
    shares = load_sessions(bundle, options);
  } catch (const Error&) {
    bundle.check_unchanged();  // if the bundle has changed, throws ChangedError, which explains the failure better
    throw;
  }
  bundle.check_unchanged();
  runtime_ = session_->description();
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  log(VMOE_LOG_INFO, path, " was loaded in ", static_cast<int64_t>(taken.count()), " ms: profile ",
      profile_ ? profile_->name : "none", ", ", runtime_, shares ? ", in a session shared with other engines" : "");
  if (const std::string& failure = find_op_library().failure; !failure.empty()) {
    runtime_ += "; " + failure;
    warn_of_standard_ops(failure, manifest_.info.precision);
  }
}

// Loads the sessions, or shares sessions that other engines have loaded. Returns true if no session had to be loaded.
bool Engine::load_sessions(const Bundle& bundle, const vmoe_load_options& options) {
  const OnnxRuntime& runtime = find_onnxruntime(options.onnxruntime != nullptr ? options.onnxruntime : "");
  const OpLibrary& op_library = find_op_library();
  // The key contains the process ID, because a forked process can't use the sessions of its parent.
  const std::string key = std::to_string(process_) + ' ' + std::to_string(threads_) + ' ' +
                          std::to_string(options.spin) + ' ' + runtime.version + ' ' +
                          std::to_string(reinterpret_cast<uintptr_t>(runtime.api)) + ' ' + op_library.path + ' ' +
                          bundle.content_key();
  // The weights are hashed in another thread while ONNX Runtime loads them.
  auto weights = std::async(std::launch::async, [&] {
    if (options.verify != 0) bundle.verify_weights();
  });
  bool shares = true;
  const auto find_or_load = [&](const std::string& name) {
    return find_or_load_session(key + ' ' + name, [&] {
      shares = false;
      const BundleGraph graph = bundle.graph(name);
      auto loaded = std::make_shared<Session>(runtime, graph, threads_, options.spin != 0, op_library);
      check_interface(graph.path, *loaded, bundle.manifest(), name != kInlinedGraph);
      return loaded;
    });
  };
  std::exception_ptr failure;
  try {
    const bool has_merging = op_library.path.empty() && manifest_.files.count(kMergingGraph) != 0;
    session_ = find_or_load(op_library.path.empty() ? kInlinedGraph : kCanonicalGraph);
    merging_session_ = has_merging ? find_or_load(kMergingGraph) : nullptr;
  } catch (...) {
    failure = std::current_exception();
  }
  weights.get();  // throws before other failures are rethrown, because changed weights can explain those failures
  if (failure != nullptr) std::rethrow_exception(failure);
  return shares;
}

std::optional<Profile> Engine::named_profile(const char* name) const {
  const Manifest& manifest = manifest_;
  if (name == nullptr) {
    return manifest.profiles.empty() ? std::nullopt : std::optional(manifest.profiles.front());
  }
  if (const Profile* stored = manifest.find_profile(name)) return *stored;
  if (manifest.rules.settings() == 0) {
    fail(VMOE_ROUTING_ERROR, "there is no profile ", in_quotes(name), "; the model has nothing to set");
  }
  if (const auto profile = manifest.rules.named_profile(name)) return profile;
  const std::string stored = manifest.profiles.empty() ? "" : "the bundle has " + profile_names(manifest) + ", and ";
  fail(VMOE_ROUTING_ERROR, "there is no profile ", in_quotes(name), "; ", stored, manifest.rules.name_examples());
}

std::optional<Profile> Engine::setting(const vmoe_setting& setting) const {
  int known = 0;
  for (const SettingRow& row : kSettingRows) known |= row.bit;
  if ((setting.set & ~known) != 0) {
    fail(VMOE_ARGUMENT_ERROR, "the setting's field 'set' is ", setting.set, ", which names fields that are not known");
  }
  auto base = setting.profile == nullptr ? profile_ : named_profile(setting.profile);
  if (setting.set == 0) return base;
  return manifest().rules.profile(base ? replaced(base->values, setting) : setting);
}

void Engine::check_process() const {
  if (getpid() == process_) return;
  fail(VMOE_RUNTIME_ERROR,
       "the engine was loaded before this process was forked, and none of its threads came along; "
       "load it in each process that uses it");
}

std::vector<OutputTensor> Engine::run_graph(const vmoe_images& images, const std::optional<Profile>& profile,
                                            const std::vector<std::string>& outputs, Cancellation* cancellation) const {
  const Batch batch = make_batch(images, manifest());
  const Session* session = merges(profile) && !uses_op_library() ? merging_session_.get() : session_.get();
  if (session == nullptr) {
    fail(VMOE_ROUTING_ERROR,
         "on standard ops only a bundle that was exported with --merge can merge tokens; export it again with "
         "--merge R, or run it on the op library");
  }
  std::vector<InputTensor> inputs{batch.image};
  std::deque<std::vector<int64_t>> integers;  // holds the settings' values; the graph inputs point to them
  const int own = profile ? manifest().rules.settings() : 0;
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    if ((own & row.bit) == 0 || (row.merging && !merges(profile))) return;
    const bool is_slots = row.bit == VMOE_SET_CAPACITY_RATIO;
    const auto& values = integers.emplace_back(
        is_slots ? profile->slots : std::vector<int64_t>{static_cast<int64_t>(profile->values.*field)});
    const auto count = static_cast<int64_t>(values.size());
    inputs.push_back(
        {row.name, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, values.data(), values.size() * sizeof(int64_t), {count}});
  });
  return session->run(inputs, outputs, cancellation);
}

void Engine::warm_up(int64_t count, const vmoe_setting& setting) const {
  const vmoe_info& info = manifest().info;
  check_count(count, manifest());
  const size_t item = info.input_dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
  const WideInt bytes = static_cast<WideInt>(count) * info.height * info.width * info.channels * item;
  if (bytes > std::numeric_limits<ptrdiff_t>::max()) throw std::bad_alloc();
  const std::vector<unsigned char> zeros(static_cast<size_t>(bytes));
  std::vector<float> output(static_cast<size_t>(count * manifest().outputs.front().floats()));
  const vmoe_images images{sizeof(images), zeros.data(), zeros.size(), info.input_dtype, 0,
                           count,          info.height,  info.width,   info.channels};
  run(images, setting, nullptr, {{manifest().output_name(), output.data(), output.size()}});
}

void Engine::run(const vmoe_images& images, const vmoe_setting& setting, Cancellation* cancellation,
                 const std::vector<OutputRoom>& outputs) const {
  std::vector<std::string> names;
  for (const OutputRoom& room : outputs) {
    check_room(images, manifest().find_output(room.name).floats(), room.size);
    names.push_back(room.name);
  }
  check_process();
  if (cancellation != nullptr) cancellation->check();  // before the images are scaled, because scaling takes time
  const auto results = run_graph(images, this->setting(setting), names, cancellation);
  // Checks all outputs before any output is written, because a failed call must write nothing.
  std::vector<std::pair<const float*, size_t>> found;
  found.reserve(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    found.push_back(checked_output(images, manifest().find_output(names[i]), results[i]));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::memcpy(outputs[i].data, found[i].first, found[i].second * sizeof(float));
  }
}

std::vector<LayerRouting> Engine::routing(const vmoe_images& images, const vmoe_setting& setting) const {
  check_process();
  const auto profile = this->setting(setting);
  std::vector<std::string> names;
  for (const auto& [name, port] : layer_ports(manifest(), merges(profile))) names.push_back(name);
  // Requests at least one output, because ONNX Runtime computes nothing if no output is requested.
  if (names.empty()) names.emplace_back(manifest().output_name());
  return read_routing(run_graph(images, profile, names, nullptr), manifest(), merges(profile));
}

}  // namespace vmoe::sdk
