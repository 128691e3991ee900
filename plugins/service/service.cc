#include "service.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "pictures.h"

namespace {

constexpr auto kLook = std::chrono::milliseconds(50);  // between two looks at whether a client has gone
constexpr size_t kLarge = size_t{1} << 21;             // pixels: some 30 ms
constexpr int kLargeNice = 5;                          // leaves the processors to everything else
constexpr char kJsonLength[] = "Inference-Header-Content-Length";

Response json_response(const Json& json) { return text_response(to_text(json), "application/json"); }

// Where to ask instead.
const char* other_request(vmoe_output output) {
  if (output == VMOE_LOGITS) return "this model outputs logits: use /v1/classify";
  if (output == VMOE_FEATURES) return "this model outputs features, and so knows no classes: use /v1/features";
  return "this model outputs the logits of each member: use infer";
}

}  // namespace

Service::Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics,
                 HttpServer& server)
    : options_(options),
      engine_(engine),
      batcher_(batcher),
      tensors_(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)),
      pictures_(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)) {
  asio::post(large_pictures_, [] { setpriority(PRIO_PROCESS, 0, kLargeNice); });  // of this thread
  const std::string model_path = "/v2/models/" + options.name;
  server.post("/v1/classify", "classify", [this](Request& request, const HasGone& has_gone) {
    return of_pictures(request, VMOE_LOGITS, has_gone);
  });
  server.post("/v1/features", "features", [this](Request& request, const HasGone& has_gone) {
    return of_pictures(request, VMOE_FEATURES, has_gone);
  });
  server.post(model_path + "/infer", "infer",
              [this](const Request& request, const HasGone& has_gone) { return infer(request, has_gone); });
  server.get(model_path, "model", [this] { return json_response(model()); });
  server.get(model_path + "/ready", "model",
             [this] { return json_response({{"name", options_.name}, {"ready", true}}); });
  server.get("/v2", "model", [] {
    return json_response(
        {{"name", "vmoe-export"}, {"version", vmoe_version()}, {"extensions", {"binary_tensor_data", "parameters"}}});
  });
  for (const char* path : {"/healthz", "/v2/health/live", "/v2/health/ready"}) {
    server.get(path, nullptr, [this] { return json_response(health()); });
  }
  server.get("/metrics", nullptr, [this, &metrics] {
    return text_response(metrics.text(options_.name, batcher_.load()), "text/plain; version=0.0.4; charset=utf-8");
  });
}

Response Service::of_pictures(Request& request, vmoe_output output, const HasGone& has_gone) {
  const vmoe::Info& info = engine_.info();
  if (info.output != output) {
    throw RequestError(other_request(info.output));
  }
  const auto read = [&] {
    return read_classify(query_of(request), request[http::field::content_type], std::move(request.body()),
                         options_.batch_size);
  };
  const ClassifyRequest classified = asio::post(pictures_, asio::use_future(read)).get();
  const ImageBatch batch = decode(classified.pictures, has_gone);
  const vmoe::Answer found = answer(batch, classified.setting, has_gone);
  return json_response(output == VMOE_LOGITS ? write_classify(classified, info, found) : write_features(info, found));
}

Response Service::infer(const Request& request, const HasGone& has_gone) {
  const auto read = [&] {
    return read_infer(request[kJsonLength], request.body(), engine_.info(), options_.batch_size);
  };
  const InferRequest inferred = asio::post(tensors_, asio::use_future(read)).get();
  const vmoe::Answer found = answer(inferred.images, inferred.setting, has_gone);
  size_t json_length = 0;
  std::string text = write_infer(options_.name, inferred, engine_.info(), found, &json_length);
  Response response =
      text_response(std::move(text), json_length != 0 ? "application/octet-stream" : "application/json");
  if (json_length != 0) response.set(kJsonLength, std::to_string(json_length));
  return response;
}

ImageBatch Service::decode(const std::vector<std::string>& pictures, const HasGone& has_gone) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options_.request_seconds);
  const size_t size = engine_.info().image_bytes();
  ImageBatch batch{engine_.info().input_dtype, static_cast<int64_t>(pictures.size()), {}};
  batch.data.resize(pictures.size() * size);
  for (size_t i = 0; i < pictures.size(); ++i) {
    const auto decode_one = [&] {
      if (std::chrono::steady_clock::now() > end || has_gone()) {
        throw RequestError("other pictures were decoded for " + std::to_string(options_.request_seconds) + " seconds",
                           503);
      }
      decode_picture(engine_, pictures[i], batch.data.data() + i * size);
    };
    asio::thread_pool& decoders = pixels_of(pictures[i]) > kLarge ? large_pictures_ : pictures_;
    asio::post(decoders, asio::use_future(decode_one)).get();
  }
  return batch;
}

vmoe::Answer Service::answer(const ImageBatch& batch, const std::string& setting, const HasGone& has_gone) {
  if (!setting.empty() && engine_.profiles().empty()) {
    throw RequestError("this model has nothing to set: it takes no 'setting'");
  }
  auto pending = batcher_.submit(batch.images(engine_.info()), setting);
  if (!pending) throw RequestError(pending.error());
  while (!pending->wait_for(kLook)) {
    if (has_gone() && pending->cancel()) break;
  }
  auto answer = pending->wait();
  if (!answer) throw RequestError(answer.error());
  return std::move(*answer);
}

Json Service::model() const {
  const vmoe::Info& info = engine_.info();
  Json profiles = Json::array();
  for (const vmoe::Profile& profile : engine_.profiles()) profiles.push_back(profile.name);
  const std::string level = batcher_.load().level;
  return {{"name", options_.name},
          {"versions", Json::array({"1"})},
          {"platform", "vmoe-export, " + info.runtime},
          {"inputs", Json::array({input_metadata(info)})},
          {"outputs", Json::array({output_metadata(info)})},
          {"parameters", {{"profiles", profiles}, {"level", level.empty() ? Json() : Json(level)}}}};
}

Json Service::health() const {
  const vmoe::BatcherLoad load = batcher_.load();
  return {{"status", "ok"},
          {"model", options_.name},
          {"waiting", load.waiting},
          {"level", load.level.empty() ? Json() : Json(load.level)}};
}
