#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "sdk/c_status.h"
#include "sdk/cancellation.h"
#include "sdk/engine.h"
#include "sdk/error.h"
#include "sdk/generated/setting_rows.h"
#include "sdk/images.h"
#include "sdk/log.h"
#include "vmoe/engine.h"

using namespace vmoe::sdk;  // the C API itself is declared outside any namespace

struct vmoe_engine : Engine {
  using Engine::Engine;
};

struct vmoe_cancellation : Cancellation {};

struct vmoe_routing {
  std::vector<LayerRouting> layers;
};

namespace {

vmoe_setting read_setting(const vmoe_setting* given) {
  if (given == nullptr) return VMOE_SETTING_INIT;
  return read_struct(given, "setting");
}

void write_profile(const Profile& profile, vmoe_profile* target, int64_t* slots, size_t slots_size) {
  if (slots != nullptr && slots_size < profile.slots.size()) {
    fail(VMOE_ARGUMENT_ERROR, "slots has room for ", slots_size, " integers, and there are ", profile.slots.size(),
         " MoE layers");
  }
  vmoe_profile c = VMOE_PROFILE_INIT;
  // c.name has room for every profile's name, whatever capacity ratio and k the name contains.
  profile.name.copy(c.name, sizeof(c.name) - 1);
  c.set = profile.values.set;
  c.effective_ratio = profile.effective_ratio;
  for_each_setting([&](const SettingRow&, auto from, auto to) { c.*to = profile.values.*from; });
  write_struct(target, c, "profile");
  if (slots != nullptr) std::copy(profile.slots.begin(), profile.slots.end(), slots);
}

struct Call {
  vmoe_images images;
  vmoe_setting setting;
};

Call read_call(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting) {
  check_pointer(engine, "engine");
  check_pointer(images, "images");
  return {read_struct(images, "images"), read_setting(setting)};
}

// Sets `name` to the name at `index` in `list`, which is a list of names in the manifest. If `index` is out of range,
// the error message contains `what`.
void write_name(const vmoe_engine* engine, std::vector<std::string> Manifest::* list, int64_t index, const char* what,
                const char** name) {
  check_pointer(engine, "engine");
  check_pointer(name, "name");
  const auto& names = engine->manifest().*list;
  *name = names[check_index(index, names.size(), what)].c_str();
}

vmoe_info info_of(const Engine& engine) {
  const Manifest& manifest = engine.manifest();
  vmoe_info info = manifest.info;
  info.num_profiles = static_cast<int64_t>(manifest.profiles.size());
  info.num_class_names = static_cast<int64_t>(manifest.class_names.size());
  info.num_moe_layers = static_cast<int64_t>(manifest.moe_layers.size());
  info.group = manifest.group.empty() ? nullptr : manifest.group.c_str();
  info.runtime = engine.runtime().c_str();
  info.uses_op_library = engine.uses_op_library() ? 1 : 0;
  info.threads = engine.threads();
  info.preprocessing = manifest.preprocessing.text.c_str();
  info.num_outputs = static_cast<int64_t>(manifest.outputs.size());
  return info;
}

}  // namespace

extern "C" {

const char* vmoe_version(void) { return VMOE_VERSION; }

vmoe_status* vmoe_set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void* user)) {
  return guarded([&] { set_log(least_level, callback, user, release); });
}

vmoe_status* vmoe_engine_load(const char* path, const vmoe_load_options* options, vmoe_engine** engine) {
  return guarded([&] {
    check_pointer(engine, "engine");
    *engine = nullptr;
    check_pointer(path, "path");
    vmoe_load_options known = VMOE_LOAD_OPTIONS_INIT;
    if (options != nullptr) known = read_struct(options, "options");
    *engine = new vmoe_engine(path, known);
  });
}

void vmoe_engine_free(vmoe_engine* engine) { delete engine; }

vmoe_status* vmoe_engine_info(const vmoe_engine* engine, vmoe_info* info) {
  return guarded([&] {
    check_pointer(engine, "engine");
    check_pointer(info, "info");
    write_struct(info, info_of(*engine), "info");
  });
}

vmoe_status* vmoe_engine_class_name(const vmoe_engine* engine, int64_t index, const char** name) {
  return guarded([&] { write_name(engine, &Manifest::class_names, index, "class name", name); });
}

vmoe_status* vmoe_engine_moe_layer(const vmoe_engine* engine, int64_t index, const char** name) {
  return guarded([&] { write_name(engine, &Manifest::moe_layers, index, "MoE layer", name); });
}

vmoe_status* vmoe_engine_output(const vmoe_engine* engine, int64_t index, vmoe_output_shape* output) {
  return guarded([&] {
    check_pointer(engine, "engine");
    check_pointer(output, "output");
    const auto& outputs = engine->manifest().outputs;
    const GraphOutput& found = outputs[check_index(index, outputs.size(), "output")];
    vmoe_output_shape c = VMOE_OUTPUT_SHAPE_INIT;
    c.name = found.name.c_str();
    c.rows = found.shape.size() > 1 ? found.shape.front() : 0;
    c.columns = found.shape.back();
    write_struct(output, c, "output");
  });
}

vmoe_status* vmoe_engine_profile(const vmoe_engine* engine, int64_t index, vmoe_profile* profile, int64_t* slots,
                                 size_t slots_size) {
  return guarded([&] {
    check_pointer(engine, "engine");
    check_pointer(profile, "profile");
    const auto& profiles = engine->manifest().profiles;
    write_profile(profiles[check_index(index, profiles.size(), "profile")], profile, slots, slots_size);
  });
}

vmoe_status* vmoe_engine_setting(const vmoe_engine* engine, const vmoe_setting* setting, vmoe_profile* profile,
                                 int64_t* slots, size_t slots_size) {
  return guarded([&] {
    check_pointer(engine, "engine");
    check_pointer(profile, "profile");
    const auto found = engine->setting(read_setting(setting));
    if (!found) {
      const bool dense = engine->manifest().rules.kind == VMOE_DENSE;
      fail(VMOE_ROUTING_ERROR, dense ? "this is a dense model" : "Soft MoE has nothing to set", ": it has no profile");
    }
    write_profile(*found, profile, slots, slots_size);
  });
}

vmoe_status* vmoe_engine_prepare_image(const vmoe_engine* engine, const vmoe_picture* picture, void* image,
                                       size_t image_bytes) {
  return guarded([&] {
    check_pointer(engine, "engine");
    check_pointer(picture, "picture");
    prepare_image(read_struct(picture, "picture"), engine->manifest(), image, image_bytes);
  });
}

vmoe_status* vmoe_engine_check_images(const vmoe_engine* engine, const vmoe_images* images) {
  return guarded([&] {
    const Call call = read_call(engine, images, nullptr);
    check_images(call.images, engine->manifest());
  });
}

vmoe_status* vmoe_engine_run(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting,
                             float* output, size_t output_size) {
  return vmoe_engine_run_cancellable(engine, images, setting, nullptr, output, output_size);
}

vmoe_status* vmoe_engine_warm_up(const vmoe_engine* engine, int64_t count, const vmoe_setting* setting) {
  return guarded([&] {
    check_pointer(engine, "engine");
    engine->warm_up(count, read_setting(setting));
  });
}

vmoe_status* vmoe_cancellation_create(vmoe_cancellation** cancellation) {
  return guarded([&] {
    check_pointer(cancellation, "cancellation");
    *cancellation = nullptr;
    *cancellation = new vmoe_cancellation;
  });
}

void vmoe_cancellation_cancel(vmoe_cancellation* cancellation) {
  if (cancellation != nullptr) cancellation->cancel();
}

void vmoe_cancellation_free(vmoe_cancellation* cancellation) { delete cancellation; }

vmoe_status* vmoe_engine_run_cancellable(const vmoe_engine* engine, const vmoe_images* images,
                                         const vmoe_setting* setting, vmoe_cancellation* cancellation, float* output,
                                         size_t output_size) {
  return guarded([&] {
    const Call call = read_call(engine, images, setting);
    if (output_size > 0) check_pointer(output, "output");
    const std::string& name = engine->manifest().output_name();
    engine->run(call.images, call.setting, cancellation, {{name, output, output_size}});
  });
}

vmoe_status* vmoe_engine_run_outputs(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting,
                                     vmoe_cancellation* cancellation, const char* const* names, float* const* outputs,
                                     const size_t* output_sizes, size_t count) {
  return guarded([&] {
    const Call call = read_call(engine, images, setting);
    check_pointer(names, "names");
    check_pointer(outputs, "outputs");
    check_pointer(output_sizes, "output_sizes");
    if (count < 1) fail(VMOE_ARGUMENT_ERROR, "there must be an output: the count is 0");
    std::vector<OutputRoom> rooms;
    for (size_t i = 0; i < count; ++i) {
      check_pointer(names[i], "names");
      if (output_sizes[i] > 0) check_pointer(outputs[i], "outputs");
      rooms.push_back({names[i], outputs[i], output_sizes[i]});
    }
    engine->run(call.images, call.setting, cancellation, rooms);
  });
}

vmoe_status* vmoe_engine_routing(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting,
                                 vmoe_routing** routing) {
  return guarded([&] {
    check_pointer(routing, "routing");
    *routing = nullptr;
    const Call call = read_call(engine, images, setting);
    *routing = new vmoe_routing{engine->routing(call.images, call.setting)};
  });
}

int64_t vmoe_routing_num_layers(const vmoe_routing* routing) {
  return routing == nullptr ? 0 : static_cast<int64_t>(routing->layers.size());
}

vmoe_status* vmoe_routing_layer(const vmoe_routing* routing, int64_t index, vmoe_layer_routing* layer) {
  return guarded([&] {
    check_pointer(routing, "routing");
    check_pointer(layer, "layer");
    const LayerRouting& found = routing->layers[check_index(index, routing->layers.size(), "MoE layer")];
    vmoe_layer_routing c = found.routing;
    c.layer = found.name.c_str();
    write_struct(layer, c, "layer");
  });
}

void vmoe_routing_free(vmoe_routing* routing) { delete routing; }

}  // extern "C"
