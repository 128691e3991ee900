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
  // All arguments must outlive this object.
  Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics);

  // Returns the endpoints in the table. The server that uses them must end before this object is destroyed.
  Routes routes();

  // Decodes a list of picture files to images. Must run on a thread of `pictures`. Throws RequestError if a picture
  // can't be used, if the request's time limit is exceeded, or if the client has disconnected.
  asio::awaitable<ImageBatch> decode(const Input& files, const HasGone& has_gone);
  // Returns the model's answer for all images. If the images do not fit into one call, the model is called several
  // times in sequence. `setting` is a profile name, or null if the server chooses the profile. Throws RequestError if a
  // call fails.
  asio::awaitable<vmoe::Answer> run(ImageBatch images, const Input& setting, const HasGone& has_gone);
  // Returns an image's class indices, sorted by probability, with the most probable class first.
  std::vector<size_t> most_probable(const float* logits) const;
  // Returns the name of the profile that is currently used for requests that specify none. Returns null if the model
  // has no profiles.
  Json level() const;

  const Options& options;
  const vmoe::Engine& engine;
  vmoe::Batcher& batcher;
  const Metrics& metrics;
  std::atomic<int64_t> unturned{0};  // number of pictures whose EXIF orientation was ignored
  ClientWatch clients;
  // The threads that read and answer requests with a body. A request does not occupy a thread while it waits for the
  // model. There are few threads, because each request may need much memory. There are three separate pools, so that
  // infer requests do not wait for pictures, and small pictures do not wait for large ones.
  Workers tensors, pictures, large_pictures{1};

 private:
  asio::awaitable<Response> serve(const Route& route, Exchange& exchange);
  RequestError no_path(const std::string& path) const;
  // Calls the model once with `count` images of a batch, starting at index `first`, and returns the answer.
  asio::awaitable<vmoe::Result<vmoe::Answer>> call(std::shared_ptr<const ImageBatch> batch, int64_t first,
                                                   int64_t count, const std::string& profile, const HasGone& has_gone);
};

// Runs a coroutine on the given threads, and returns its result.
template <typename T>
asio::awaitable<T> run_on(Workers& threads, asio::awaitable<T> task) {
  co_return co_await asio::co_spawn(asio::make_strand(threads.context()), std::move(task), asio::use_awaitable);
}

Response json_response(const Json& json);

// Returns the name, datatype and shape that an output has in a call with `count` images.
Json output_tensor(const vmoe::OutputShape& output, int64_t count);
