// Prints each message that the log callback receives as a line "LEVEL<tab>MESSAGE".
//
//   sdk_log BUNDLE ONNXRUNTIME all LEVEL     loads the bundle twice, and runs it
//   sdk_log BUNDLE ONNXRUNTIME runs LEVEL    loads the bundle, and runs it three times: without a callback, with
//       one, and again without one
//   sdk_log BUNDLE ONNXRUNTIME nan LEVEL     loads the bundle, and runs images with NaN twice
//   sdk_log BUNDLE ONNXRUNTIME calls LEVEL   sets a callback that calls the library, replaces itself and throws
//
// A LEVEL of -1 means no callback. Each call that fails prints a line "failed<tab>MESSAGE".
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "loaded_engine.h"

namespace {

void print(vmoe_log_level level, const std::string& message) { std::printf("%d\t%s\n", level, message.c_str()); }

template <typename T>
void print_failure(const vmoe::Result<T>& result) {
  if (!result) std::printf("failed\t%s\n", result.error().message.c_str());
}

void listen(int level) {
  vmoe::LogCallback callback;
  if (level >= 0) callback = print;
  print_failure(vmoe::set_log(level < 0 ? VMOE_LOG_ERROR : static_cast<vmoe_log_level>(level), callback));
}

std::optional<vmoe::Engine> load(char** argv) {
  auto engine = load_engine(argv);
  print_failure(engine);
  if (!engine) return std::nullopt;
  return *std::move(engine);
}

void run(const vmoe::Engine& engine) { print_failure(engine.warm_up(engine.info().batch_multiple)); }

void run_nan(const vmoe::Engine& engine) {
  const vmoe::Info& info = engine.info();
  const std::vector<float> pixels(info.batch_multiple * info.image_bytes() / sizeof(float),
                                  std::numeric_limits<float>::quiet_NaN());
  print_failure(
      engine.run(vmoe::Images::float32(pixels.data(), info.batch_multiple, info.height, info.width, info.channels)));
}

// A callback that calls the library in every allowed way. At the end, it throws an exception, which is not allowed.
class Caller {
 public:
  Caller(const vmoe::Engine& engine, char** argv) : engine_(engine), argv_(argv) {}

  void operator()(vmoe_log_level level, const std::string& message) const {
    print(level, message);
    vmoe_info info{};
    info.struct_size = sizeof(info);
    std::printf("info\t%d\n", vmoe_status_code(vmoe_engine_info(engine_.handle(), &info)));
    run(engine_);
    load(argv_);
    listen(VMOE_LOG_INFO);
    throw std::runtime_error("thrown by a callback");
  }

 private:
  const vmoe::Engine& engine_;
  char** argv_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const std::string mode = argv[3];
  const int level = std::atoi(argv[4]);
  if (mode == "all") {
    listen(level);
    const auto engine = load(argv), other = load(argv);
    if (engine) run(*engine);
  } else if (mode == "nan") {
    const auto engine = load(argv);
    if (!engine) return 1;
    listen(level);
    for (int call = 0; call < 2; ++call) run_nan(*engine);
  } else if (mode == "runs") {
    const auto engine = load(argv);
    if (!engine) return 1;
    for (const int now : {-1, level, -1}) {
      listen(now);
      std::printf("run\t%d\n", now);
      run(*engine);
    }
  } else {
    const auto engine = load(argv);
    if (!engine) return 1;
    print_failure(vmoe::set_log(static_cast<vmoe_log_level>(level), Caller(*engine, argv)));
    load(argv);
    load(argv);
  }
  return 0;
}
