// A caller built with the header of before there were routing kinds: its structs are shorter. Prints one line for each
// struct, "NAME ok" where what it has room for is filled as in a whole one and nothing behind is written to.
//
//   sdk_short_structs BUNDLE ONNXRUNTIME
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <vector>

#include "vmoe/engine.h"

namespace {

constexpr unsigned char kUntouched = 0xAB;

// Calls `fill` with a whole struct and with one of `size` bytes, and compares.
template <typename Struct, typename Fill>
void compare(const char* name, size_t size, const Fill& fill) {
  Struct whole, cut;
  std::memset(&whole, 0, sizeof(whole));
  std::memset(&cut, kUntouched, sizeof(cut));
  whole.struct_size = sizeof(whole);
  cut.struct_size = size;
  for (Struct* target : {&whole, &cut}) {
    if (vmoe_status* status = fill(target)) {
      std::printf("%s %s\n", name, vmoe_status_message(status));
      vmoe_status_free(status);
      return;
    }
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(&cut);
  bool good = std::memcmp(bytes + sizeof(size_t), reinterpret_cast<const unsigned char*>(&whole) + sizeof(size_t),
                          size - sizeof(size_t)) == 0;
  for (size_t i = size; i < sizeof(Struct); ++i) good = good && bytes[i] == kUntouched;
  std::printf("%s %s\n", name, good ? "ok" : "differs");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  vmoe_load_options options = VMOE_LOAD_OPTIONS_INIT;
  options.onnxruntime = argv[2];
  vmoe_engine* engine = nullptr;
  if (vmoe_engine_load(argv[1], &options, &engine) != nullptr) return 1;
  vmoe_info info{};
  info.struct_size = sizeof(info);
  if (vmoe_engine_info(engine, &info) != nullptr) return 1;

  compare<vmoe_info>("info", offsetof(vmoe_info, routing_kind),
                     [&](vmoe_info* target) { return vmoe_engine_info(engine, target); });
  compare<vmoe_profile>("profile", offsetof(vmoe_profile, max_experts),
                        [&](vmoe_profile* target) { return vmoe_engine_profile(engine, 0, target, nullptr, 0); });
  vmoe_setting setting = VMOE_SETTING_INIT;
  setting.struct_size = offsetof(vmoe_setting, pool);
  setting.set = VMOE_SET_K;
  setting.k = 2;
  setting.pool = 99;  // behind the end
  compare<vmoe_profile>("setting", offsetof(vmoe_profile, max_experts), [&](vmoe_profile* target) {
    return vmoe_engine_setting(engine, &setting, target, nullptr, 0);
  });

  const std::vector<unsigned char> pixels(
      static_cast<size_t>(info.batch_multiple * info.height * info.width * info.channels));
  vmoe_images images = VMOE_IMAGES_INIT;
  images.data = pixels.data();
  images.data_bytes = pixels.size();
  images.dtype = VMOE_UINT8;
  images.count = info.batch_multiple;
  images.height = info.height;
  images.width = info.width;
  images.channels = info.channels;
  vmoe_routing* routing = nullptr;
  if (vmoe_engine_routing(engine, &images, &setting, &routing) != nullptr) return 1;
  compare<vmoe_layer_routing>("layer", offsetof(vmoe_layer_routing, kind),
                              [&](vmoe_layer_routing* target) { return vmoe_routing_layer(routing, 0, target); });
  vmoe_routing_free(routing);
  vmoe_engine_free(engine);
  return 0;
}
