// One model behind HTTP: what its endpoints share.
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
  // All must outlive it.
  Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics);

  // The endpoints of the table, for a server that ends before this service does.
  Routes routes();

  // Decodes a list of picture files. Runs on the threads `pictures`. Throws RequestError.
  asio::awaitable<ImageBatch> decode(const Input& files, const HasGone& has_gone);
  // The model's answer. More images than a call takes are served one call after another. setting: a text, or null to
  // leave it to the server. Throws RequestError.
  asio::awaitable<vmoe::Answer> run(ImageBatch images, const Input& setting, const HasGone& has_gone);
  // The classes of an image, the most probable first.
  std::vector<size_t> likeliest(const float* logits) const;
  // The setting of requests that name none, or null.
  Json level() const;

  const Options& options;
  const vmoe::Engine& engine;
  vmoe::Batcher& batcher;
  const Metrics& metrics;
  std::atomic<int64_t> unturned{0};  // pictures with an EXIF orientation that were taken as they are stored
  ClientWatch clients;
  // Requests with a body are read and answered on these threads, and leave them while they wait for the model. There
  // are few, since what they read may take much memory. infer waits for no picture, and a small picture for no large
  // one.
  Workers tensors, pictures, large_pictures{1};

 private:
  asio::awaitable<Response> serve(const Route& route, Exchange& exchange);
  RequestError no_path(const std::string& path) const;
  // The answer to `count` images of a batch, from `first` on.
  asio::awaitable<vmoe::Result<vmoe::Answer>> call(std::shared_ptr<const ImageBatch> batch, int64_t first,
                                                   int64_t count, const std::string& profile, const HasGone& has_gone);
};

// Runs a coroutine on these threads, and returns what it returns.
template <typename T>
asio::awaitable<T> run_on(Workers& threads, asio::awaitable<T> task) {
  co_return co_await asio::co_spawn(asio::make_strand(threads.context()), std::move(task), asio::use_awaitable);
}

Response json_response(const Json& json);

// Name, datatype and shape of an output for this number of images.
Json output_tensor(const vmoe::OutputShape& output, int64_t count);
