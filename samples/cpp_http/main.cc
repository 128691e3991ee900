// An HTTP service around the SDK: one engine, micro-batches, and capacity that follows the load.
//
//   vmoe-http BUNDLE [options]
#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "elastic_levels.h"
#include "options.h"
#include "service.h"

namespace {

void complain(const std::string& sentence) { std::fprintf(stderr, "vmoe-http: %s\n", sentence.c_str()); }

// SIGTERM and SIGINT, as something to ask for: they interrupt no thread that is made from now on.
sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

template <typename T>
T value_of(vmoe::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

void run(const Options& options) {
  // Bodies go back to the system when they are done with, instead of leaving holes in the memory of a hundred threads.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_ARENA_MAX, 4);
  const auto stops = [signals = stop_signals()] {
    const timespec at_once{};
    return sigtimedwait(&signals, nullptr, &at_once) > 0;
  };
  value_of(vmoe::set_log(VMOE_LOG_WARNING, [](vmoe_log_level, const std::string& message) { complain(message); }));
  vmoe::LoadOptions loading;
  loading.threads = options.threads;
  if (options.target == 0 && !options.profiles.empty()) loading.profile = options.profiles.front();
  const vmoe::Engine engine = value_of(vmoe::Engine::load(options.bundle, loading));
  if (stops()) return;

  vmoe::BatcherOptions batching;
  batching.most_images = options.most_images;
  batching.most_waiting = options.most_waiting;
  std::vector<std::string> notes;
  if (options.target > 0) notes = choose_levels(options, engine, batching);
  vmoe::Batcher batcher = value_of(vmoe::Batcher::start(engine, batching));
  value_of(engine.warm_up(options.most_images));

  Service service(options, engine, batcher);
  const std::string address = service.bind();
  if (!options.quiet) {
    for (const std::string& note : notes) complain(note);
    std::printf("serving %s; try: curl --data-binary @IMAGE %s/v1/classify\n", options.name.c_str(), address.c_str());
    std::fflush(stdout);
  }
  service.serve(stops);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse_options({argv + 1, argv + argc});
    if (options.help) {
      std::fputs(kHelp, stdout);
      return 0;
    }
    run(options);
    return 0;
  } catch (const UsageError& error) {
    complain(error.what());
    return 2;
  } catch (const std::exception& error) {
    complain(error.what());
    return 1;
  }
}
