// One model behind HTTP: what its endpoints share.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "http_server.h"
#include "options.h"
#include "prometheus_text.h"
#include "requests.h"

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

  // Why no route has a path.
  RequestError no_path(const std::string& path) const;
  // What a function returns that runs on these threads.
  template <typename Function>
  auto run_on(Workers& threads, Function function) {
    return asio::post(threads, asio::use_future(std::move(function))).get();
  }
  // Decodes a list of picture files. Throws RequestError.
  ImageBatch decode(const Input& files, const HasGone& has_gone);
  // More images than a call takes are served one call after another. setting: a text, or null to leave it to the
  // server. Throws RequestError.
  vmoe::Answer answer(const ImageBatch& batch, const Input& setting, const HasGone& has_gone);
  // The classes of an image, the most probable first.
  std::vector<size_t> likeliest(const float* logits) const;
  // The setting of requests that name none, or null.
  Json level() const;

  const Options& options;
  const vmoe::Engine& engine;
  vmoe::Batcher& batcher;
  const Metrics& metrics;
  std::map<std::string, const Route*, std::less<>> routes;  // rows of the table by their paths
  std::atomic<int64_t> unturned{0};  // pictures with an EXIF orientation that were taken as they are stored
  // Few threads, as what they read may take much memory; infer waits for no picture, and a small one for no large one.
  Workers tensors, pictures, large_pictures{1};
};

Response json_response(const Json& json);

// Name, datatype and shape of an output for so many images.
Json output_tensor(const vmoe::OutputShape& output, int64_t count);
