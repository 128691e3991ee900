// C++17 wrapper of the C API in engine.h. It is header only, returns errors as values, and frees all memory by itself.
// The only exception that it throws is std::bad_alloc, if there is not enough memory for a function's result. In a
// program that is compiled with -fno-exceptions, the process ends instead of throwing it.
//
//   auto engine = vmoe::Engine::load("b16.vmoe");
//   if (!engine) return fail(engine.error().message);
//   vmoe::Setting setting;
//   setting.capacity_ratio = 0.5;
//   auto logits = engine->run(vmoe::Images::uint8(pixels.data(), 8, 224, 224, 3), setting);
//
// Many threads may use an Engine at once. engine.h explains the letters in shapes.
#ifndef VMOE_ENGINE_HPP_
#define VMOE_ENGINE_HPP_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vmoe/engine.h"
#include "vmoe/result.hpp"
#include "vmoe/types.hpp"

namespace vmoe {

// Receives the level and the text of a log message. The text is one line. May be called on any thread: see
// vmoe_log_callback.
using LogCallback = std::function<void(vmoe_log_level, const std::string&)>;

namespace internal {

inline Error take(vmoe_status* status) {
  Error error{vmoe_status_code(status), vmoe_status_message(status)};
  vmoe_status_free(status);
  return error;
}

inline vmoe_images c_images(const Images& images) {
  return {sizeof(vmoe_images), images.data,   images.bytes(), images.dtype,   0,
          images.count,        images.height, images.width,   images.channels};
}

// Copies an array that the C API returned. Returns an empty vector for a null pointer.
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
  layer.weight = copy(c.weight, size);
  layer.kind = static_cast<vmoe_routing_kind>(c.kind);
  layer.expert = copy(c.expert, size);
  layer.kept = copy(c.kept, size);
  layer.experts = c.experts;
  layer.slots = c.slots;
  layer.dispatch = copy(c.dispatch, shares);
  layer.combine = copy(c.combine, shares);
  layer.token = copy(c.token, grid.images * c.image_tokens);
  layer.grid = grid;
  return layer;
}

// A deleter that calls kFree to free an object of the C API.
template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* handle) const {
    kFree(handle);
  }
};

inline void call_log(void* callback, vmoe_log_level level, const char* message) {
#if defined(__cpp_exceptions)
  try {
    (*static_cast<LogCallback*>(callback))(level, message);
  } catch (...) {
    // Drops the exception, because it must not pass through the C functions that called this one.
  }
#else
  (*static_cast<LogCallback*>(callback))(level, message);
#endif
}
inline void free_log(void* callback) { delete static_cast<LogCallback*>(callback); }

}  // namespace internal

// Sets the log callback of this process, or removes it if `callback` is empty. See vmoe_set_log. Exceptions that the
// callback throws are dropped. When this function returns, no thread runs the previous callback any more, and that
// callback has been destroyed. If a log callback itself calls this function, however, the function does not wait for
// running callbacks. Returns `least_level`.
inline Result<vmoe_log_level> set_log(vmoe_log_level least_level, LogCallback callback) {
  auto owned = callback ? std::make_unique<LogCallback>(std::move(callback)) : nullptr;
  auto* const call = owned ? internal::call_log : nullptr;
  if (auto* status = vmoe_set_log(least_level, call, owned.get(), internal::free_log)) return internal::take(status);
  static_cast<void>(owned.release());
  return least_level;
}

// Lets one thread end calls that run on other threads. One object can be used by any number of calls. It must outlive
// all of them.
class Cancellation {
 public:
  static Result<Cancellation> create() {
    vmoe_cancellation* handle = nullptr;
    if (auto* status = vmoe_cancellation_create(&handle)) return internal::take(status);
    return Cancellation(handle);
  }

  // Cancels permanently. Running calls that use this object fail with VMOE_CANCELLED before their next op. Later calls
  // that use it fail immediately.
  void cancel() const { vmoe_cancellation_cancel(handle_.get()); }

  // The handle for the C API. The Cancellation still owns the handle.
  vmoe_cancellation* handle() const { return handle_.get(); }

 private:
  friend class Engine;
  explicit Cancellation(vmoe_cancellation* handle) : handle_(handle) {}

  std::unique_ptr<vmoe_cancellation, internal::Free<vmoe_cancellation_free>> handle_;
};

// A loaded bundle. One Engine serves all profiles and any number of threads.
class Engine {
 public:
  // Loads a bundle: see vmoe_engine_load.
  //
  // path: the path of the bundle, a folder NAME.vmoe.
  static Result<Engine> load(const std::string& path, const LoadOptions& options = {}) {
    vmoe_load_options c = VMOE_LOAD_OPTIONS_INIT;
    c.threads = options.threads;
    c.verify = options.verify;
    c.spin = options.spin;
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

  // The stored profiles, in export order. A dense ViT and Soft MoE have none.
  const std::vector<Profile>& profiles() const { return profiles_; }

  // Returns the profile that a call with this setting uses. To make repeated calls faster, call setting() on the
  // returned profile and pass the result to each call. That result contains values instead of a name, so a call has no
  // name to parse.
  Result<Profile> setting(const Setting& setting = {}) const {
    const vmoe_setting c = internal::c_setting(setting);
    vmoe_profile found = VMOE_PROFILE_INIT;
    std::vector<int64_t> slots(info_.moe_layers.size());
    if (auto* status = vmoe_engine_setting(handle_.get(), &c, &found, slots.data(), slots.size())) {
      return internal::take(status);
    }
    return internal::profile(found, std::move(slots));
  }

  // Converts a picture of any size to an image, input_dtype[height,width,channels], with the steps in
  // info().preprocessing. Writes the image to `image`. `size` is the number of bytes that `image` can hold, which must
  // be at least info().image_bytes(). Returns the number of bytes written.
  Result<size_t> prepare_image(const Picture& picture, void* image, size_t size) const {
    const Images pixels = Images::uint8(picture.data, 1, picture.height, picture.width, picture.channels);
    const vmoe_picture c{sizeof(vmoe_picture), picture.data,     pixels.bytes(),      picture.height,
                         picture.width,        picture.channels, picture.orientation, 0};
    if (auto* status = vmoe_engine_prepare_image(handle_.get(), &c, image, size)) return internal::take(status);
    return info_.image_bytes();
  }

  // Runs a batch and writes the first output, float32[N, output_size], to `output`. `size` is the number of floats that
  // `output` can hold, which must be at least N * output_size. Returns the number of floats written.
  Result<size_t> run(const Images& images, const Setting& setting, float* output, size_t size) const {
    return run(images, setting, Cancellation(nullptr), output, size);
  }

  // Runs a batch like the function above, but `cancellation` can end the call. If it does, the call fails with
  // VMOE_CANCELLED and leaves `output` unchanged.
  Result<size_t> run(const Images& images, const Setting& setting, const Cancellation& cancellation, float* output,
                     size_t size) const {
    const vmoe_images c_images = internal::c_images(images);
    const vmoe_setting c_setting = internal::c_setting(setting);
    auto* status =
        vmoe_engine_run_cancellable(handle_.get(), &c_images, &c_setting, cancellation.handle(), output, size);
    if (status != nullptr) return internal::take(status);
    return static_cast<size_t>(images.count * info_.output_size);
  }

  // Runs a batch and returns the first output, float32[N, output_size].
  Result<std::vector<float>> run(const Images& images, const Setting& setting = {}) const {
    return run(images, setting, Cancellation(nullptr));
  }

  // Runs a batch like the function above, but `cancellation` can end the call. If it does, the call fails with
  // VMOE_CANCELLED.
  Result<std::vector<float>> run(const Images& images, const Setting& setting, const Cancellation& cancellation) const {
    std::vector<float> output(static_cast<size_t>(rows_of(images) * info_.output_size));
    auto written = run(images, setting, cancellation, output.data(), output.size());
    if (!written) return written.error();
    return output;
  }

  // Runs a batch once and returns all outputs in info().outputs. The keys of the result are the outputs' names. Each
  // value has shape float32[N, OutputShape::floats()].
  Result<std::map<std::string, std::vector<float>>> run_outputs(const Images& images,
                                                                const Setting& setting = {}) const {
    std::map<std::string, std::vector<float>> found;
    std::vector<const char*> names;
    std::vector<float*> outputs;
    std::vector<size_t> sizes;
    for (const OutputShape& output : info_.outputs) {
      auto& values = found[output.name];
      values.resize(static_cast<size_t>(rows_of(images) * output.floats()));
      names.push_back(output.name.c_str());
      outputs.push_back(values.data());
      sizes.push_back(values.size());
    }
    const vmoe_images c_images = internal::c_images(images);
    const vmoe_setting c_setting = internal::c_setting(setting);
    auto* status = vmoe_engine_run_outputs(handle_.get(), &c_images, &c_setting, nullptr, names.data(), outputs.data(),
                                           sizes.data(), names.size());
    if (status != nullptr) return internal::take(status);
    return found;
  }

  // Runs a batch of `count` images whose values are all zero. Afterwards, the first real call with this setting and
  // this number of images is fast: see vmoe_engine_warm_up. Returns `count`.
  Result<int64_t> warm_up(int64_t count, const Setting& setting = {}) const {
    const vmoe_setting c_setting = internal::c_setting(setting);
    if (auto* status = vmoe_engine_warm_up(handle_.get(), count, &c_setting)) return internal::take(status);
    return count;
  }

  // Runs a batch and returns how each MoE layer routed its tokens. The result is empty for a dense ViT.
  Result<std::vector<LayerRouting>> routing(const Images& images, const Setting& setting = {}) const {
    const vmoe_images c_images = internal::c_images(images);
    const vmoe_setting c_setting = internal::c_setting(setting);
    vmoe_routing* handle = nullptr;
    if (auto* status = vmoe_engine_routing(handle_.get(), &c_images, &c_setting, &handle)) {
      return internal::take(status);
    }
    const std::unique_ptr<vmoe_routing, internal::Free<vmoe_routing_free>> result(handle);
    const PatchGrid grid{images.count, info_.ensemble_size, info_.patch_rows, info_.patch_columns, info_.front_tokens};
    std::vector<LayerRouting> layers;
    for (int64_t i = 0; i < vmoe_routing_num_layers(handle); ++i) {
      vmoe_layer_routing c = VMOE_LAYER_ROUTING_INIT;
      if (auto* status = vmoe_routing_layer(handle, i, &c)) return internal::take(status);
      layers.push_back(internal::layer_routing(c, grid));
    }
    return layers;
  }

  // The handle for the C API. The Engine still owns the handle.
  const vmoe_engine* handle() const { return handle_.get(); }

 private:
  static constexpr int64_t kMaxImages = int64_t{1} << 24;

  Engine() = default;

  // Returns the number of images to allocate output memory for. It is 0 if the engine is going to refuse the batch.
  static int64_t rows_of(const Images& images) {
    return images.data != nullptr && images.count > 0 && images.count <= kMaxImages ? images.count : 0;
  }

  vmoe_status* read_metadata() {
    vmoe_info c = VMOE_INFO_INIT;
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
             c.front_tokens,
             c.patch_rows,
             c.patch_columns,
             static_cast<vmoe_probabilities>(c.probabilities),
             {}};
    for (int64_t i = 0; i < c.num_outputs; ++i) {
      vmoe_output_shape output = VMOE_OUTPUT_SHAPE_INIT;
      if (auto* status = vmoe_engine_output(handle_.get(), i, &output)) return status;
      info_.outputs.push_back({output.name, output.rows, output.columns});
    }
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
      std::vector<int64_t> slots(info_.moe_layers.size());
      if (auto* status = vmoe_engine_profile(handle_.get(), i, &stored, slots.data(), slots.size())) return status;
      profiles_.push_back(internal::profile(stored, std::move(slots)));
    }
    return nullptr;
  }

  std::unique_ptr<vmoe_engine, internal::Free<vmoe_engine_free>> handle_;
  Info info_;
  std::vector<Profile> profiles_;
};

}  // namespace vmoe

#endif  // VMOE_ENGINE_HPP_
