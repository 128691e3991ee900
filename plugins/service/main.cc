// An HTTP service that is built on the SDK. It has one engine, micro-batches and elastic capacity.
//
//   vmoe-serve-http BUNDLE [options]
#include <malloc.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>
#include <vmoe/batcher.hpp>

#include "http_server.h"
#include "levels.h"
#include "options.h"
#include "prometheus_text.h"
#include "service.h"

namespace {

void complain(const std::string& message) { std::fprintf(stderr, "vmoe-serve-http: %s\n", message.c_str()); }

// Handles a signal that arrives during the start. Ends the process at once, because no client is waiting yet.
void end_start(int number) {
  const std::string_view message =
      number == SIGINT ? "vmoe-serve-http: interrupted\n" : "vmoe-serve-http: ended by SIGTERM\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
  _exit(128 + number);
}

template <typename T>
T value_of(vmoe::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

void run(const Options& options) {
  // With these settings, memory for request bodies returns to the system as soon as it is freed. With the default
  // settings, this memory would fragment the heaps that malloc keeps for many threads.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_ARENA_MAX, 4);
  Metrics metrics;
  HttpServer server(
      {options.connections, static_cast<size_t>(options.max_body) << 20, std::chrono::seconds(options.request_seconds)},
      metrics);
  if (!options.tls_cert.empty()) server.use_tls(options.tls_cert, options.tls_key);

  value_of(vmoe::set_log(VMOE_LOG_WARNING, [](vmoe_log_level, const std::string& message) { complain(message); }));
  vmoe::LoadOptions loading;
  loading.threads = options.threads;
  if (options.slo_ms == 0 && !options.profiles.empty()) loading.profile = options.profiles.front();
  const vmoe::Engine engine = value_of(vmoe::Engine::load(options.bundle, loading));
  vmoe::BatcherOptions batching;
  batching.most_images = options.batch_size;
  batching.most_waiting = options.max_waiting;
  std::vector<std::string> notes;
  if (options.slo_ms > 0) notes = choose_levels(options, engine, batching);
  vmoe::Batcher batcher = value_of(vmoe::Batcher::start(engine, batching));
  value_of(engine.warm_up(options.batch_size));

  Service service(options, engine, batcher, metrics);
  const Routes routes = service.routes();
  const std::string address = server.bind(options.host, options.port);
  if (!options.quiet) {
    for (const std::string& note : notes) complain(note);
    const char* what = engine.info().output == VMOE_FEATURES ? "features" : "classify";
    std::printf("serving %s; try: curl --data-binary @IMAGE %s/v1/%s\n", options.name.c_str(), address.c_str(), what);
    std::fflush(stdout);
  }
  server.serve(routes);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, end_start);
  std::signal(SIGTERM, end_start);
  std::signal(SIGPIPE, SIG_IGN);  // ignored, because a process that reads the log through a pipe may end first
  try {
    run(parse_options(argc, argv));
    return 0;
  } catch (const UsageError& error) {
    complain(error.what());
    return 2;
  } catch (const std::exception& error) {
    complain(error.what());
    return 1;
  }
}
