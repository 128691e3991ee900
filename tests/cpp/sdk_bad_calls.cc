// Makes bad calls of the C API on one engine, by name, and prints the status of each: "CODE<tab>MESSAGE". Exit code 3
// if a call succeeded. Before each one a good call succeeds, so no bad one leaves anything behind.
//
//   sdk_bad_calls BUNDLE ONNXRUNTIME NAME...
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "vmoe/elastic.h"
#include "vmoe/engine.h"

namespace {

// A loaded engine, and arguments of a call that succeeds until a case breaks one of them.
struct Call {
  vmoe_engine* engine = nullptr;
  std::vector<float> pixels;
  std::vector<float> output;
  vmoe_images images = VMOE_IMAGES_INIT;
  vmoe_picture picture = VMOE_PICTURE_INIT;
  vmoe_setting setting = VMOE_SETTING_INIT;
  vmoe_load_options options = VMOE_LOAD_OPTIONS_INIT;
  std::string bundle;
  size_t room = 0;
  vmoe_elastic* elastic = nullptr;
  vmoe_elastic_options elastic_options = VMOE_ELASTIC_OPTIONS_INIT;
  vmoe_elastic_level levels[2] = {{0.001, 0.001}, {0.001, 0.002}};
  vmoe_elastic_seen seen = VMOE_ELASTIC_SEEN_INIT;
  vmoe_elastic_decision decision = VMOE_ELASTIC_DECISION_INIT;

  vmoe_status* run() { return vmoe_engine_run(engine, &images, &setting, output.data(), room); }
  vmoe_status* route() {
    vmoe_routing* routing = nullptr;
    auto* status = vmoe_engine_routing(engine, &images, &setting, &routing);
    vmoe_routing_free(routing);
    return status;
  }
  vmoe_status* prepare() {
    return vmoe_engine_prepare_image(engine, &picture, pixels.data(), pixels.size() * sizeof(float));
  }
  vmoe_status* create_elastic(size_t num_levels) {
    return vmoe_elastic_create(&elastic_options, levels, num_levels, &elastic);
  }
  vmoe_elastic* made_elastic() {
    vmoe_status_free(create_elastic(2));
    return elastic;
  }
  vmoe_status* load() {
    vmoe_engine* other = nullptr;
    auto* status = vmoe_engine_load(bundle.c_str(), &options, &other);
    vmoe_engine_free(other);
    return status;
  }
};

using Case = std::function<vmoe_status*(Call&)>;

// A case that sets one field and makes the call.
template <typename Change>
Case running(const Change& change) {
  return [change](Call& call) {
    change(call);
    return call.run();
  };
}

template <typename Change>
Case preparing(const Change& change) {
  return [change](Call& call) {
    change(call);
    return call.prepare();
  };
}

template <typename Change>
Case loading(const Change& change) {
  return [change](Call& call) {
    change(call);
    return call.load();
  };
}

Case ratio(double value) {
  return running([value](Call& c) {
    c.setting.set = VMOE_SET_CAPACITY_RATIO;
    c.setting.capacity_ratio = value;
  });
}

Case k(int64_t value) {
  return running([value](Call& c) {
    c.setting.set = VMOE_SET_K;
    c.setting.k = value;
  });
}

Case max_experts(int64_t value) {
  return running([value](Call& c) {
    c.setting.set = VMOE_SET_MAX_EXPERTS;
    c.setting.max_experts = value;
  });
}

Case profile(const char* name) {
  return running([name](Call& c) { c.setting.profile = name; });
}

const std::map<std::string, Case>& cases() {
  static const std::map<std::string, Case> all = {
      {"load without a path", [](Call& c) { return vmoe_engine_load(nullptr, nullptr, &c.engine); }},
      {"load without a place for the engine", [](Call&) { return vmoe_engine_load("x.vmoe", nullptr, nullptr); }},
      {"load an empty path", loading([](Call& c) { c.bundle = ""; })},
      {"load a folder that is not there", loading([](Call& c) { c.bundle = "absent.vmoe"; })},
      {"load a path that is too long", loading([](Call& c) { c.bundle = std::string(5000, 'x'); })},
      {"load a path with a line break", loading([](Call& c) { c.bundle = "two\nlines.vmoe"; })},
      {"load a path that is no text", loading([](Call& c) { c.bundle = "\xEB\x88?\xC3.vmoe"; })},
      {"load a file", loading([](Call& c) { c.bundle += "/weights.safetensors"; })},
      {"load a folder that is no bundle", loading([](Call& c) { c.bundle = "/"; })},
      {"load with options of no size", loading([](Call& c) { c.options.struct_size = 0; })},
      {"load with options of a later version",
       [](Call& c) {
         struct {
           vmoe_load_options known = VMOE_LOAD_OPTIONS_INIT;
           void* unknown = &known;
         } later;
         later.known.struct_size = sizeof(later);
         return vmoe_engine_load(c.bundle.c_str(), &later.known, &c.engine);
       }},
      {"load with options of a huge size", loading([](Call& c) { c.options.struct_size = SIZE_MAX; })},
      {"load with a million threads", loading([](Call& c) { c.options.threads = 1'000'000; })},
      {"load with fewer than no threads", loading([](Call& c) { c.options.threads = -1; })},
      {"load with an unknown profile", loading([](Call& c) { c.options.profile = "fastest"; })},
      {"load with a profile of too many experts", loading([](Call& c) { c.options.profile = "c0.3-k9"; })},
      {"load a runtime that is not there",
       loading([](Call& c) { c.options.onnxruntime = "/absent/libonnxruntime.so"; })},
      {"load a runtime that is a text file", loading([](Call& c) { c.options.onnxruntime = "/etc/passwd"; })},
      {"load a runtime that is another library", loading([](Call& c) { c.options.onnxruntime = "libm.so.6"; })},

      {"prepare without an engine", preparing([](Call& c) { c.engine = nullptr; })},
      {"prepare nothing", [](Call& c) { return vmoe_engine_prepare_image(c.engine, nullptr, c.pixels.data(), 9999); }},
      {"prepare a picture of no struct size", preparing([](Call& c) { c.picture.struct_size = 0; })},
      {"prepare a picture without data", preparing([](Call& c) { c.picture.data = nullptr; })},
      {"prepare a picture of no height", preparing([](Call& c) { c.picture.height = 0; })},
      {"prepare a picture of negative sides", preparing([](Call& c) { c.picture.height = c.picture.width = -5; })},
      {"prepare a picture of 2^62 rows", preparing([](Call& c) { c.picture.height = int64_t{1} << 62; })},
      {"prepare another number of bytes", preparing([](Call& c) { c.picture.data_bytes += 1; })},
      {"prepare four channels", preparing([](Call& c) { c.picture.channels = 4; })},
      {"prepare into nothing",
       [](Call& c) { return vmoe_engine_prepare_image(c.engine, &c.picture, nullptr, SIZE_MAX); }},
      {"prepare into too little room",
       [](Call& c) { return vmoe_engine_prepare_image(c.engine, &c.picture, c.pixels.data(), 3); }},
      {"prepare into memory that is not aligned",
       [](Call& c) {
         char* start = reinterpret_cast<char*>(c.pixels.data());
         return vmoe_engine_prepare_image(c.engine, &c.picture, start + 1, c.pixels.size() * sizeof(float) - 4);
       }},

      {"run without an engine", running([](Call& c) { c.engine = nullptr; })},
      {"run without images",
       [](Call& c) { return vmoe_engine_run(c.engine, nullptr, nullptr, c.output.data(), c.room); }},
      {"run without data", running([](Call& c) { c.images.data = nullptr; })},
      {"run into nothing", [](Call& c) { return vmoe_engine_run(c.engine, &c.images, nullptr, nullptr, c.room); }},
      {"run into no room", [](Call& c) { return vmoe_engine_run(c.engine, &c.images, nullptr, nullptr, 0); }},
      {"run into too little room", running([](Call& c) { c.room -= 1; })},
      {"run images of no size", running([](Call& c) { c.images.struct_size = 0; })},
      {"run a setting of no size", running([](Call& c) { c.setting.struct_size = 8; })},
      {"run fewer bytes than the shape says", running([](Call& c) { c.images.data_bytes -= 4; })},
      {"run more bytes than the shape says", running([](Call& c) { c.images.data_bytes += 4; })},
      {"run no images", running([](Call& c) { c.images.count = 0; })},
      {"run a negative count", running([](Call& c) { c.images.count = -16; })},
      {"run 2^62 images", running([](Call& c) { c.images.count = int64_t{1} << 62; })},
      {"run a batch that is no multiple of the group", running([](Call& c) {
         c.images.count = 15;
         c.images.data_bytes = c.images.data_bytes / 16 * 15;
       })},
      {"run another height", running([](Call& c) { c.images.height = 32; })},
      {"run a negative width", running([](Call& c) { c.images.width = -28; })},
      {"run three channels", running([](Call& c) { c.images.channels = 3; })},
      {"run a dtype of 0", running([](Call& c) { c.images.dtype = 0; })},
      {"run a dtype of 99", running([](Call& c) { c.images.dtype = 99; })},
      {"run data that is not aligned",
       running([](Call& c) { c.images.data = reinterpret_cast<const char*>(c.images.data) + 1; })},
      {"run a ratio of 0", ratio(0)},
      {"run a negative ratio", ratio(-0.3)},
      {"run a ratio that is no number", ratio(std::nan(""))},
      {"run an infinite ratio", ratio(std::numeric_limits<double>::infinity())},
      {"run a ratio above the number of experts", ratio(8.5)},
      {"run a ratio of 1e308", ratio(1e308)},
      {"run a k of 0", k(0)},
      {"run a negative k", k(-1)},
      {"run a k above the number of experts", k(9)},
      {"run the largest k", k(std::numeric_limits<int64_t>::max())},
      {"run a bpr of 2", running([](Call& c) {
         c.setting.set = VMOE_SET_BPR;
         c.setting.bpr = 2;
       })},
      {"run a pool of 2", running([](Call& c) {
         c.setting.set = VMOE_SET_POOL;
         c.setting.pool = 2;
       })},
      {"run a limit of no experts", max_experts(0)},
      {"run a limit of -1 experts", max_experts(-1)},
      {"run an unknown field", running([](Call& c) { c.setting.set = 32; })},
      {"run an unknown profile", profile("fastest")},
      {"run a profile without a name", profile("")},
      {"run a profile of ratio 0", profile("c0-k1")},
      {"run a profile of k 9", profile("c0.3-k9")},
      {"run a profile of ratio 1e999", profile("c1e999-k1")},
      {"run a profile of ratio 1e-999", profile("c1e-999-k1")},
      {"run a profile with a line break", profile("c0.3-k1\n")},

      {"cancellable without an engine",
       [](Call& c) { return vmoe_engine_run_cancellable(nullptr, &c.images, nullptr, nullptr, nullptr, 0); }},
      {"cancellable into nothing",
       [](Call& c) { return vmoe_engine_run_cancellable(c.engine, &c.images, nullptr, nullptr, nullptr, c.room); }},
      {"a cancellation without a place for it", [](Call&) { return vmoe_cancellation_create(nullptr); }},
      {"warm up without an engine", [](Call&) { return vmoe_engine_warm_up(nullptr, 16, nullptr); }},
      {"warm up no images", [](Call& c) { return vmoe_engine_warm_up(c.engine, 0, nullptr); }},
      {"warm up a negative count", [](Call& c) { return vmoe_engine_warm_up(c.engine, -16, nullptr); }},
      {"warm up no multiple of the group", [](Call& c) { return vmoe_engine_warm_up(c.engine, 15, nullptr); }},
      {"warm up 2^62 images", [](Call& c) { return vmoe_engine_warm_up(c.engine, int64_t{1} << 62, nullptr); }},
      {"warm up 2^50 images", [](Call& c) { return vmoe_engine_warm_up(c.engine, int64_t{1} << 50, nullptr); }},
      {"warm up an unknown profile",
       [](Call& c) {
         c.setting.profile = "fastest";
         return vmoe_engine_warm_up(c.engine, 16, &c.setting);
       }},
      {"warm up a setting of no size",
       [](Call& c) {
         c.setting.struct_size = 8;
         return vmoe_engine_warm_up(c.engine, 16, &c.setting);
       }},
      {"log at level -1", [](Call&) { return vmoe_set_log(-1, nullptr, nullptr, nullptr); }},
      {"log at level 4", [](Call&) { return vmoe_set_log(4, nullptr, nullptr, nullptr); }},

      {"routing without an engine",
       [](Call& c) {
         c.engine = nullptr;
         return c.route();
       }},
      {"routing without a place for it",
       [](Call& c) { return vmoe_engine_routing(c.engine, &c.images, nullptr, nullptr); }},
      {"routing of a ratio of 0",
       [](Call& c) {
         c.setting.set = VMOE_SET_CAPACITY_RATIO;
         return c.route();
       }},
      {"a layer of no routing",
       [](Call&) {
         vmoe_layer_routing layer = VMOE_LAYER_ROUTING_INIT;
         return vmoe_routing_layer(nullptr, 0, &layer);
       }},
      {"a layer that is not there",
       [](Call& c) {
         vmoe_routing* routing = nullptr;
         if (auto* status = vmoe_engine_routing(c.engine, &c.images, nullptr, &routing)) return status;
         vmoe_layer_routing layer = VMOE_LAYER_ROUTING_INIT;
         auto* status = vmoe_routing_layer(routing, vmoe_routing_num_layers(routing), &layer);
         vmoe_routing_free(routing);
         return status;
       }},

      {"info of nothing",
       [](Call&) {
         vmoe_info info{};
         info.struct_size = sizeof(info);
         return vmoe_engine_info(nullptr, &info);
       }},
      {"info of no size",
       [](Call& c) {
         vmoe_info info{};
         return vmoe_engine_info(c.engine, &info);
       }},
      {"a class name where there is none",
       [](Call& c) {
         const char* name = nullptr;
         return vmoe_engine_class_name(c.engine, 0, &name);
       }},
      {"MoE layer -1",
       [](Call& c) {
         const char* name = nullptr;
         return vmoe_engine_moe_layer(c.engine, -1, &name);
       }},
      {"a MoE layer without a place for its name", [](Call& c) { return vmoe_engine_moe_layer(c.engine, 0, nullptr); }},
      {"profile 99",
       [](Call& c) {
         vmoe_profile found = VMOE_PROFILE_INIT;
         return vmoe_engine_profile(c.engine, 99, &found, nullptr, 0);
       }},
      {"a profile with too little room for its slots",
       [](Call& c) {
         vmoe_profile found = VMOE_PROFILE_INIT;
         int64_t capacity = 0;
         return vmoe_engine_profile(c.engine, 0, &found, &capacity, 1);
       }},
      {"a setting without a place for its profile",
       [](Call& c) { return vmoe_engine_setting(c.engine, &c.setting, nullptr, nullptr, 0); }},
      {"elastic capacity without a place for it",
       [](Call& c) { return vmoe_elastic_create(&c.elastic_options, c.levels, 2, nullptr); }},
      {"elastic capacity without options", [](Call& c) { return vmoe_elastic_create(nullptr, c.levels, 2, &c.elastic); }},
      {"elastic capacity without levels",
       [](Call& c) { return vmoe_elastic_create(&c.elastic_options, nullptr, 2, &c.elastic); }},
      {"elastic capacity of no levels", [](Call& c) { return c.create_elastic(0); }},
      {"elastic capacity of no size",
       [](Call& c) {
         c.elastic_options.struct_size = 0;
         return c.create_elastic(2);
       }},
      {"elastic capacity without a target",
       [](Call& c) {
         c.elastic_options.target = 0;
         return c.create_elastic(2);
       }},
      {"elastic capacity at no time",
       [](Call& c) {
         c.elastic_options.time = std::nan("");
         return c.create_elastic(2);
       }},
      {"a decision of nothing", [](Call& c) { return vmoe_elastic_decide(nullptr, &c.seen, &c.decision); }},
      {"a decision on nothing", [](Call& c) { return vmoe_elastic_decide(c.made_elastic(), nullptr, &c.decision); }},
      {"a decision without a place for it",
       [](Call& c) { return vmoe_elastic_decide(c.made_elastic(), &c.seen, nullptr); }},
      {"a decision on a queue of no size",
       [](Call& c) {
         c.seen.struct_size = 0;
         return vmoe_elastic_decide(c.made_elastic(), &c.seen, &c.decision);
       }},
      {"a call of a level that is not there", [](Call& c) { return vmoe_elastic_served(c.made_elastic(), 2, 1, 1.0); }},
      {"a call of no images", [](Call& c) { return vmoe_elastic_served(c.made_elastic(), 1, 0, 1.0); }},
  };
  return all;
}

int report(vmoe_status* status) {
  if (status == nullptr) return 3;
  std::printf("%d\t%s\n", vmoe_status_code(status), vmoe_status_message(status));
  vmoe_status_free(status);
  return 0;
}

// Makes one call with an engine; returns the exit code.
int make(const Case& bad, vmoe_engine* engine, char** argv) {
  Call call;
  call.engine = engine;
  call.elastic_options.target = 0.1;
  call.bundle = argv[1];
  call.options.onnxruntime = argv[2];
  vmoe_info info{};
  info.struct_size = sizeof(info);
  if (vmoe_engine_info(engine, &info) != nullptr) return 1;
  const int64_t count = info.batch_multiple;
  // One float more than the images need: a case moves their start.
  call.pixels.resize(static_cast<size_t>(count * info.height * info.width * info.channels) + 1);
  call.output.resize(static_cast<size_t>(count * info.output_size));
  call.room = call.output.size();
  call.images.data = call.pixels.data();
  call.images.data_bytes = (call.pixels.size() - 1) * sizeof(float);
  call.images.dtype = VMOE_FLOAT32;
  call.images.count = count;
  call.images.height = info.height;
  call.images.width = info.width;
  call.images.channels = info.channels;
  const std::vector<uint8_t> black(static_cast<size_t>(5 * 5 * info.channels));
  call.picture.data = black.data();
  call.picture.data_bytes = black.size();
  call.picture.height = call.picture.width = 5;
  call.picture.channels = info.channels;
  if (call.run() != nullptr || call.prepare() != nullptr) return 1;
  const int code = report(bad(call));
  vmoe_elastic_free(call.elastic);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  vmoe_load_options options = VMOE_LOAD_OPTIONS_INIT;
  options.onnxruntime = argv[2];
  vmoe_engine* engine = nullptr;
  if (auto* status = vmoe_engine_load(argv[1], &options, &engine)) {
    report(status);
    return 1;
  }
  int code = 0;
  for (int i = 3; i < argc && code == 0; ++i) {
    const auto found = cases().find(argv[i]);
    code = found == cases().end() ? 2 : make(found->second, engine, argv);
  }
  vmoe_engine_free(engine);
  return code;
}
