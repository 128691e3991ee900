// The state and functions that the endpoints of one model share.
#pragma once

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>
#include <vmoe/batcher.hpp>

#include "client_watch.h"
#include "messages.h"
#include "options.h"
#include "prometheus_text.h"
#include "requests.h"
#include "workers.h"

// An engine's input, dtype[count,H,W,C].
struct ImageBatch {
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t count = 0;
  std::vector<uint8_t> data;
};

class Service {
 public:
  // All arguments must outlive the service.
  Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics);

  // Returns the endpoints of the table. The server that uses them must end before this service does.
  Routes routes();

  // Decodes a list of picture files. Must run on a thread of `pictures`. Throws RequestError.
  asio::awaitable<ImageBatch> decode(const Input& files, const HasGone& has_gone);
  // Returns the model's answer. If the images do not fit into one call, makes several calls in sequence. setting: a
  // string, or null if the server chooses. Throws RequestError.
  asio::awaitable<vmoe::Answer> run(ImageBatch images, const Input& setting, const HasGone& has_gone);
  // Returns the classes of an image, the most probable first.
  std::vector<size_t> likeliest(const float* logits) const;
  // Returns the profile that currently serves requests that name none; null if the model has no profiles.
  Json level() const;

  const Options& options;
  const vmoe::Engine& engine;
  vmoe::Batcher& batcher;
  const Metrics& metrics;
  std::atomic<int64_t> unturned{0};  // pictures whose EXIF orientation was ignored
  ClientWatch clients;
  // These threads read and answer requests with a body. A request does not occupy a thread while it waits for the
  // model. There are few threads, because each request may need much memory. The three pools are separate, so that
  // infer does not wait for pictures, and small pictures do not wait for large ones.
  Workers tensors, pictures, large_pictures{1};

 private:
  asio::awaitable<Response> serve(const Route& route, Exchange& exchange);
  RequestError no_path(const std::string& path) const;
  // Makes one call, and returns the answer to the `count` images of a batch that start at index `first`.
  asio::awaitable<vmoe::Result<vmoe::Answer>> call(std::shared_ptr<const ImageBatch> batch, int64_t first,
                                                   int64_t count, const std::string& profile, const HasGone& has_gone);
};

// Runs a coroutine on these threads, and returns its result.
template <typename T>
asio::awaitable<T> run_on(Workers& threads, asio::awaitable<T> task) {
  co_return co_await asio::co_spawn(asio::make_strand(threads.context()), std::move(task), asio::use_awaitable);
}

Response json_response(const Json& json);

// Returns the name, datatype and shape of an output for `count` images.
Json output_tensor(const vmoe::OutputShape& output, int64_t count);
