// C++17 wrapper of the C API in engine.h: header only, errors as values, nothing to free by hand.
//
//   auto engine = vmoe::Engine::load("b16.vmoe");
//   if (!engine) return fail(engine.error().message);
//   vmoe::Setting setting;
//   setting.capacity_ratio = 0.5;
//   auto logits = engine->run(vmoe::Images::uint8(pixels.data(), 8, 224, 224, 3), setting);
//
// An Engine may be used from many threads at once. Shapes use the letters of engine.h.
#ifndef VMOE_ENGINE_HPP_
#define VMOE_ENGINE_HPP_

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "vmoe/engine.h"

namespace vmoe {

// Why a call failed, in one sentence.
struct Error {
  vmoe_code code = VMOE_OK;
  std::string message;
};

// A value, or the error that stands in its place.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return content_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // The value; only where ok().
  T& value() & { return *checked(std::get_if<0>(&content_)); }
  const T& value() const& { return *checked(std::get_if<0>(&content_)); }
  T&& value() && { return std::move(*checked(std::get_if<0>(&content_))); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // The error; only where not ok().
  const Error& error() const { return *checked(std::get_if<1>(&content_)); }

 private:
  template <typename P>
  static P* checked(P* pointer) {
    assert(pointer != nullptr);
    return pointer;
  }

  std::variant<T, Error> content_;
};

// Receives a level and a message of one line, from any thread: see vmoe_log_callback.
using LogCallback = std::function<void(vmoe_log_level, const std::string&)>;

struct LoadOptions {
  int threads = 0;          // per call, 1 to 1024; 0 leaves the choice to ONNX Runtime
  bool verify = true;       // compare the SHA-256 of every file
  std::string profile;      // for calls that say nothing else; empty: the first stored one
  std::string onnxruntime;  // path of the ONNX Runtime library; empty: see vmoe_load_options
};

// A routing setting of one call: a profile, and what to replace in it. All empty: the engine's profile. vmoe_setting
// says which models have which.
struct Setting {
  std::optional<std::string> profile;
  std::optional<double> capacity_ratio;
  std::optional<int64_t> k;
  std::optional<bool> bpr;
  std::optional<bool> pool;            // the places of a group are one pool for all experts
  std::optional<int64_t> max_experts;  // experts that a group may use; the number of experts or more is no limit
};

struct Profile {
  std::string name;
  double capacity_ratio = 0;      // C as it was asked for
  double effective_ratio = 0;     // C after rounding to whole places
  int64_t k = 0;                  // experts per token; 0 with experts choice
  bool bpr = true;                // Batch Priority Routing, or vanilla order and experts choice
  std::vector<int64_t> capacity;  // places per expert and group, of each MoE layer
  bool pool = false;              // the places of a group are one pool for all experts
  int64_t max_experts = 0;        // experts that a group may use, E where it may use all; 0 with experts choice
};

// dtype[N,H,W,C], contiguous, not owned: float32 in [-1, 1], or uint8 in 0..255.
struct Images {
  const void* data = nullptr;
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t count = 0, height = 0, width = 0, channels = 0;

  static Images float32(const float* data, int64_t count, int64_t height, int64_t width, int64_t channels) {
    return {data, VMOE_FLOAT32, count, height, width, channels};
  }
  static Images uint8(const uint8_t* data, int64_t count, int64_t height, int64_t width, int64_t channels) {
    return {data, VMOE_UINT8, count, height, width, channels};
  }
};

// uint8[height,width,channels], contiguous, not owned: one decoded picture of any size.
struct Picture {
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0, channels = 0;
};

// Where the tokens of a batch stand in a routing: those of an image beside each other, the members of an ensemble (E3)
// beside each other in each token.
struct PatchGrid {
  int64_t images = 0;             // N
  int64_t members = 1;            // M
  int64_t rows = 0;               // h; 0 where the bundle doesn't say
  int64_t columns = 0;            // w
  bool classifier_token = false;  // stands before the patches
};

// Where one MoE layer sent its tokens. What the kind doesn't have is empty.
struct LayerRouting {
  std::string layer;                            // such as "encoderblock_1"
  int64_t groups = 0, tokens = 0, choices = 0;  // G, S and K; K is E for experts choice
  std::vector<int32_t> slot;  // [G,S,K], bundles of format version 1 and 2: e * M + g * c + p, -1: dropped
  std::vector<float> weight;  // [G,S,K], top-k and experts choice: raw gate of each choice, dropped ones included
  vmoe_routing_kind kind = VMOE_TOP_K;
  std::vector<int32_t> expert;  // [G,S,K], top-k: of each choice; of bundles of version 1 and 2 -1 where dropped
  std::vector<uint8_t> kept;    // [G,S,K], top-k and experts choice: 1, or 0 where the choice was dropped
  int64_t experts = 0;          // E
  int64_t slots = 0;            // P, Soft MoE
  std::vector<float> dispatch;  // [G,S,E,P], Soft MoE: share of each token in what a slot takes
  std::vector<float> combine;   // [G,S,E,P], Soft MoE: share of each slot in what a token gets
  PatchGrid grid;

  // 1 for each patch of which a choice was kept, of any member, and 0 for the others: [N,h,w]. The classifier token is
  // left out. All 1 for Soft MoE, which drops nothing. Empty where the bundle doesn't say how many patches an image
  // has.
  std::vector<uint8_t> patch_mask() const {
    const int64_t patches = grid.rows * grid.columns, before = grid.classifier_token ? 1 : 0;
    if (patches == 0 || groups * tokens != grid.images * (before + patches) * grid.members) return {};
    std::vector<uint8_t> mask(static_cast<size_t>(grid.images * patches), 1);
    if (kept.empty()) return mask;
    const int64_t size = grid.members * choices;  // of a token
    for (int64_t i = 0; i < grid.images * patches; ++i) {
      const int64_t token = i / patches * (before + patches) + before + i % patches;
      const auto first = kept.begin() + token * size;
      mask[static_cast<size_t>(i)] = std::find(first, first + size, 1) != first + size ? 1 : 0;
    }
    return mask;
  }
};

// What a bundle is and what runs it.
struct Info {
  int64_t height = 0, width = 0, channels = 0;
  vmoe_dtype input_dtype = VMOE_FLOAT32;
  vmoe_output output = VMOE_LOGITS;
  int64_t output_size = 0;                    // floats per image
  int64_t batch_multiple = 1;                 // batches must be a multiple of this many images
  int64_t num_experts = 0, group_tokens = 0;  // E and S; 0 for a dense ViT
  std::string group;    // "image", "batch", a number of images or "tokens:S"; empty for a dense ViT
  std::string runtime;  // such as "ONNX Runtime 1.21.0 CPU, vmoe op library"
  bool uses_op_library = false;
  int threads = 0;                       // as asked for; 0 where ONNX Runtime chose
  vmoe_precision precision = VMOE_FP32;  // of the large products
  std::vector<std::string> class_names;  // one for each class, or none
  std::vector<std::string> moe_layers;   // none for a dense ViT
  std::string preprocessing;             // official steps, such as "resize_small(256)|central_crop(224)"
  int64_t ensemble_size = 1;             // M, the members of an ensemble of experts (E3)
  vmoe_routing_kind routing_kind = VMOE_DENSE;
  bool classifier_token = false;              // a token that is no patch stands before the patches of an image
  int64_t patch_rows = 0, patch_columns = 0;  // patches of an image; 0 where the bundle doesn't say

  // Bytes of one image, input_dtype[height,width,channels].
  size_t image_bytes() const {
    const size_t item = input_dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
    return static_cast<size_t>(height) * static_cast<size_t>(width) * static_cast<size_t>(channels) * item;
  }
};

namespace internal {

inline Error take(vmoe_status* status) {
  Error error{vmoe_status_code(status), vmoe_status_message(status)};
  vmoe_status_free(status);
  return error;
}

inline vmoe_images c_images(const Images& images) {
  vmoe_images c = VMOE_IMAGES_INIT;
  c.data = images.data;
  c.dtype = images.dtype;
  c.count = images.count;
  c.height = images.height;
  c.width = images.width;
  c.channels = images.channels;
  c.data_bytes = static_cast<size_t>(images.count) * static_cast<size_t>(images.height) *
                 static_cast<size_t>(images.width) * static_cast<size_t>(images.channels) *
                 (images.dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float));
  return c;
}

// Points into `setting`.
inline vmoe_setting c_setting(const Setting& setting) {
  vmoe_setting c = VMOE_SETTING_INIT;
  c.profile = setting.profile ? setting.profile->c_str() : nullptr;
  c.set = (setting.capacity_ratio ? VMOE_SET_CAPACITY_RATIO : 0) | (setting.k ? VMOE_SET_K : 0) |
          (setting.bpr ? VMOE_SET_BPR : 0) | (setting.pool ? VMOE_SET_POOL : 0) |
          (setting.max_experts ? VMOE_SET_MAX_EXPERTS : 0);
  c.capacity_ratio = setting.capacity_ratio.value_or(0);
  c.k = setting.k.value_or(0);
  c.bpr = setting.bpr.value_or(false);
  c.pool = setting.pool.value_or(false);
  c.max_experts = setting.max_experts.value_or(0);
  return c;
}

inline Profile profile(const vmoe_profile& c, std::vector<int64_t> capacity) {
  return {c.name,     c.capacity_ratio,    c.effective_ratio, c.k,
          c.bpr != 0, std::move(capacity), c.pool != 0,       c.max_experts};
}

// A copy of what the C API points to; empty for a null pointer.
template <typename T>
std::vector<T> copy(const T* values, int64_t size) {
  return values == nullptr ? std::vector<T>() : std::vector<T>(values, values + size);
}

inline LayerRouting layer_routing(const vmoe_layer_routing& c, const PatchGrid& grid) {
  const int64_t size = c.groups * c.tokens * c.choices, shares = c.groups * c.tokens * c.experts * c.slots;
  LayerRouting layer;
  layer.layer = c.layer;
  layer.groups = c.groups;
  layer.tokens = c.tokens;
  layer.choices = c.choices;
  layer.slot = copy(c.slot, size);
  layer.weight = copy(c.weight, size);
  layer.kind = static_cast<vmoe_routing_kind>(c.kind);
  layer.expert = copy(c.expert, size);
  layer.kept = copy(c.kept, size);
  layer.experts = c.experts;
  layer.slots = c.slots;
  layer.dispatch = copy(c.dispatch, shares);
  layer.combine = copy(c.combine, shares);
  layer.grid = grid;
  return layer;
}

struct FreeEngine {
  void operator()(vmoe_engine* engine) const { vmoe_engine_free(engine); }
};
struct FreeRouting {
  void operator()(vmoe_routing* routing) const { vmoe_routing_free(routing); }
};
struct FreeCancellation {
  void operator()(vmoe_cancellation* cancellation) const { vmoe_cancellation_free(cancellation); }
};

inline void call_log(void* callback, vmoe_log_level level, const char* message) {
  try {
    (*static_cast<LogCallback*>(callback))(level, message);
  } catch (...) {
    // C in between knows no exceptions.
  }
}
inline void free_log(void* callback) { delete static_cast<LogCallback*>(callback); }

}  // namespace internal

// Sets who receives the messages of this process from now on, an empty function for nobody: see vmoe_set_log. What the
// callback throws is dropped. When this returns, the callback that was set before isn't running any more and is
// destroyed, but where a callback calls it. Returns the level.
inline Result<vmoe_log_level> set_log(vmoe_log_level least_level, LogCallback callback) {
  auto owned = callback ? std::make_unique<LogCallback>(std::move(callback)) : nullptr;
  auto* const call = owned ? internal::call_log : nullptr;
  if (auto* status = vmoe_set_log(least_level, call, owned.get(), internal::free_log)) return internal::take(status);
  static_cast<void>(owned.release());
  return least_level;
}

// Ends running calls from another thread. It may serve any number of calls, and outlives them.
class Cancellation {
 public:
  static Result<Cancellation> create() {
    vmoe_cancellation* handle = nullptr;
    if (auto* status = vmoe_cancellation_create(&handle)) return internal::take(status);
    return Cancellation(handle);
  }

  // Cancels for good: calls with it end between two ops with VMOE_CANCELLED, and later ones before they begin.
  void cancel() const { vmoe_cancellation_cancel(handle_.get()); }

  // For calls of the C API; stays owned by this object.
  vmoe_cancellation* handle() const { return handle_.get(); }

 private:
  explicit Cancellation(vmoe_cancellation* handle) : handle_(handle) {}

  std::unique_ptr<vmoe_cancellation, internal::FreeCancellation> handle_;
};

// A loaded bundle. One session serves every profile, from any number of threads.
class Engine {
 public:
  // path: the NAME.vmoe folder.
  static Result<Engine> load(const std::string& path, const LoadOptions& options = {}) {
    vmoe_load_options c = VMOE_LOAD_OPTIONS_INIT;
    c.threads = options.threads;
    c.verify = options.verify;
    c.profile = options.profile.empty() ? nullptr : options.profile.c_str();
    c.onnxruntime = options.onnxruntime.empty() ? nullptr : options.onnxruntime.c_str();
    Engine engine;
    vmoe_engine* handle = nullptr;
    if (auto* status = vmoe_engine_load(path.c_str(), &c, &handle)) return internal::take(status);
    engine.handle_.reset(handle);
    if (auto* status = engine.read_metadata()) return internal::take(status);
    return engine;
  }

  const Info& info() const { return info_; }

  // The stored profiles, in the order they were asked for at export; none for a dense ViT and
  // Soft MoE.
  const std::vector<Profile>& profiles() const { return profiles_; }

  // The profile that a call with this setting runs with.
  Result<Profile> setting(const Setting& setting = {}) const {
    const vmoe_setting c = internal::c_setting(setting);
    vmoe_profile found = VMOE_PROFILE_INIT;
    std::vector<int64_t> capacity(info_.moe_layers.size());
    if (auto* status = vmoe_engine_setting(handle_.get(), &c, &found, capacity.data(), capacity.size())) {
      return internal::take(status);
    }
    return internal::profile(found, std::move(capacity));
  }

  // Makes one image, input_dtype[height,width,channels], of a picture of any size, by the steps info().preprocessing.
  // `size` bytes of room, info().image_bytes() or more. Returns the number of bytes written.
  Result<size_t> prepare_image(const Picture& picture, void* image, size_t size) const {
    vmoe_picture c = VMOE_PICTURE_INIT;
    c.data = picture.data;
    c.height = picture.height;
    c.width = picture.width;
    c.channels = picture.channels;
    c.data_bytes = static_cast<size_t>(c.height) * static_cast<size_t>(c.width) * static_cast<size_t>(c.channels);
    if (auto* status = vmoe_engine_prepare_image(handle_.get(), &c, image, size)) return internal::take(status);
    return info_.image_bytes();
  }

  // Logits, or features, f32[N, output_size], into the caller's memory; `size` floats of room, N * output_size or more.
  // Returns the number of floats written.
  Result<size_t> run(const Images& images, const Setting& setting, float* output, size_t size) const {
    return run_into(images, setting, nullptr, output, size);
  }

  // The same, but that `cancellation` ends the call with VMOE_CANCELLED; then `output` is as it was.
  Result<size_t> run(const Images& images, const Setting& setting, const Cancellation& cancellation, float* output,
                     size_t size) const {
    return run_into(images, setting, cancellation.handle(), output, size);
  }

  // Logits, or features, f32[N, output_size].
  Result<std::vector<float>> run(const Images& images, const Setting& setting = {}) const {
    return run_new(images, setting, nullptr);
  }

  // The same, but that `cancellation` ends the call with VMOE_CANCELLED.
  Result<std::vector<float>> run(const Images& images, const Setting& setting, const Cancellation& cancellation) const {
    return run_new(images, setting, cancellation.handle());
  }

  // Runs `count` images of zeros, so that the first call of as many images at this setting finds its memory allocated
  // and the weights in the page cache. Returns the count.
  Result<int64_t> warm_up(int64_t count, const Setting& setting = {}) const {
    const vmoe_setting c_setting = internal::c_setting(setting);
    if (auto* status = vmoe_engine_warm_up(handle_.get(), count, &c_setting)) return internal::take(status);
    return count;
  }

  // Where each MoE layer sends the tokens of a batch; empty for a dense ViT.
  Result<std::vector<LayerRouting>> routing(const Images& images, const Setting& setting = {}) const {
    const vmoe_images c_images = internal::c_images(images);
    const vmoe_setting c_setting = internal::c_setting(setting);
    vmoe_routing* handle = nullptr;
    if (auto* status = vmoe_engine_routing(handle_.get(), &c_images, &c_setting, &handle)) {
      return internal::take(status);
    }
    const std::unique_ptr<vmoe_routing, internal::FreeRouting> result(handle);
    const PatchGrid grid{images.count, info_.ensemble_size, info_.patch_rows, info_.patch_columns,
                         info_.classifier_token};
    std::vector<LayerRouting> layers;
    for (int64_t i = 0; i < vmoe_routing_num_layers(handle); ++i) {
      vmoe_layer_routing c = VMOE_LAYER_ROUTING_INIT;
      if (auto* status = vmoe_routing_layer(handle, i, &c)) return internal::take(status);
      layers.push_back(internal::layer_routing(c, grid));
    }
    return layers;
  }

  // For calls of the C API; stays owned by this object.
  const vmoe_engine* handle() const { return handle_.get(); }

 private:
  static constexpr int64_t kMaxImages = int64_t{1} << 24;

  Engine() = default;

  Result<size_t> run_into(const Images& images, const Setting& setting, vmoe_cancellation* cancellation, float* output,
                          size_t size) const {
    const vmoe_images c_images = internal::c_images(images);
    const vmoe_setting c_setting = internal::c_setting(setting);
    auto* status = vmoe_engine_run_cancellable(handle_.get(), &c_images, &c_setting, cancellation, output, size);
    if (status != nullptr) return internal::take(status);
    return static_cast<size_t>(images.count * info_.output_size);
  }

  Result<std::vector<float>> run_new(const Images& images, const Setting& setting,
                                     vmoe_cancellation* cancellation) const {
    // A count that the model refuses must not be allocated for first.
    const int64_t rows = images.data != nullptr && images.count > 0 && images.count <= kMaxImages ? images.count : 0;
    std::vector<float> output(static_cast<size_t>(rows * info_.output_size));
    auto written = run_into(images, setting, cancellation, output.data(), output.size());
    if (!written) return written.error();
    return output;
  }

  vmoe_status* read_metadata() {
    vmoe_info c{};
    c.struct_size = sizeof(c);
    if (auto* status = vmoe_engine_info(handle_.get(), &c)) return status;
    info_ = {c.height,
             c.width,
             c.channels,
             static_cast<vmoe_dtype>(c.input_dtype),
             static_cast<vmoe_output>(c.output),
             c.output_size,
             c.batch_multiple,
             c.num_experts,
             c.group_tokens,
             c.group != nullptr ? c.group : "",
             c.runtime,
             c.uses_op_library != 0,
             c.threads,
             static_cast<vmoe_precision>(c.precision),
             {},
             {},
             c.preprocessing != nullptr ? c.preprocessing : "",
             c.ensemble_size,
             static_cast<vmoe_routing_kind>(c.routing_kind),
             c.classifier_token != 0,
             c.patch_rows,
             c.patch_columns};
    for (int64_t i = 0; i < c.num_class_names; ++i) {
      const char* name = nullptr;
      if (auto* status = vmoe_engine_class_name(handle_.get(), i, &name)) return status;
      info_.class_names.emplace_back(name);
    }
    for (int64_t i = 0; i < c.num_moe_layers; ++i) {
      const char* name = nullptr;
      if (auto* status = vmoe_engine_moe_layer(handle_.get(), i, &name)) return status;
      info_.moe_layers.emplace_back(name);
    }
    for (int64_t i = 0; i < c.num_profiles; ++i) {
      vmoe_profile stored = VMOE_PROFILE_INIT;
      std::vector<int64_t> capacity(info_.moe_layers.size());
      if (auto* status = vmoe_engine_profile(handle_.get(), i, &stored, capacity.data(), capacity.size()))
        return status;
      profiles_.push_back(internal::profile(stored, std::move(capacity)));
    }
    return nullptr;
  }

  std::unique_ptr<vmoe_engine, internal::FreeEngine> handle_;
  Info info_;
  std::vector<Profile> profiles_;
};

}  // namespace vmoe

#endif  // VMOE_ENGINE_HPP_
