#include "service.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

namespace {

constexpr auto kLook = std::chrono::milliseconds(50);  // between two looks at whether a client has gone

std::string error_body(const std::string& sentence) { return to_text({{"error", sentence}}); }

void set_json(httplib::Response& response, const Json& json) {
  response.set_content(to_text(json), "application/json");
}

double rounded_ms(double seconds) { return std::round(seconds * 1e6) / 1e3; }

std::optional<std::string> parameter(const httplib::Request& request, const char* name) {
  if (!request.has_param(name)) return std::nullopt;
  return request.get_param_value(name);
}

}  // namespace

Service::Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher)
    : options_(options),
      engine_(engine),
      batcher_(batcher),
      metrics_(options.name, batcher),
      pictures_(engine, std::max(1U, std::thread::hardware_concurrency())),
      server_({options.connections, std::chrono::seconds(options.request_seconds), options.most_bytes}, error_body,
              [this](int status) { metrics_.replied("server", status, 0); }) {
  using Request = httplib::Request;
  using Response = httplib::Response;
  server_.post("/v1/classify", posted("classify", [this](const Request& request, const std::string& body,
                                                         Response& response) { classify(request, body, response); }));
  server_.post("/v2/models/:model/infer",
               posted("infer", [this](const Request& request, const std::string& body, Response& response) {
                 infer(request, body, response);
               }));
  server_.get("/v2/models/:model",
              asked("model", [this](const Request& request, const std::string&, Response& response) {
                check_name(request);
                set_json(response, model());
              }));
  server_.get("/v2/models/:model/ready",
              asked("model", [this](const Request& request, const std::string&, Response& response) {
                check_name(request);
                set_json(response, {{"name", options_.name}, {"ready", true}});
              }));
  server_.get("/v2", asked("model", [](const Request&, const std::string&, Response& response) {
                set_json(response, {{"name", "vmoe-export"},
                                    {"version", vmoe_version()},
                                    {"extensions", {"binary_tensor_data", "parameters"}}});
              }));
  for (const char* path : {"/healthz", "/v2/health/live", "/v2/health/ready"}) {
    server_.get(path, [this](const Request&, Response& response) { set_json(response, health()); });
  }
  server_.get("/metrics", [this](const Request&, Response& response) {
    response.set_content(metrics_.text(), "text/plain; version=0.0.4; charset=utf-8");
  });
}

std::string Service::bind() { return "http://" + server_.bind(options_.host, options_.port); }

HttpServer::HandlerWithContentReader Service::posted(const char* what, Answered answered) {
  return [this, what, answered = std::move(answered)](const httplib::Request& request, httplib::Response& response,
                                                      const httplib::ContentReader& reader) {
    std::string body;
    if (server_.read_body(request, response, reader, body)) reply(what, answered, request, body, response);
  };
}

HttpServer::Handler Service::asked(const char* what, Answered answered) {
  return [this, what, answered = std::move(answered)](const httplib::Request& request, httplib::Response& response) {
    reply(what, answered, request, {}, response);
  };
}

void Service::reply(const char* what, const Answered& answered, const httplib::Request& request,
                    const std::string& body, httplib::Response& response) {
  const auto start = Clock::now();
  response.status = 200;
  try {
    answered(request, body, response);
  } catch (const RequestError& error) {
    server_.refuse(response, error.status(), error.what());
  }
  metrics_.replied(what, response.status, std::chrono::duration<double>(Clock::now() - start).count());
}

void Service::classify(const httplib::Request& request, const std::string& body, httplib::Response& response) {
  if (engine_.info().output != VMOE_LOGITS) {
    throw RequestError("this model puts out no logits, and so knows no classes: use infer");
  }
  const ClassifyRequest asked = read_classify(body, request.get_header_value("Content-Type"), parameter(request, "top"),
                                              parameter(request, "setting").value_or(""), options_.most_images);
  const ImageBatch batch = pictures_.read(asked.pictures);
  const vmoe::Answer found = answer(request, batch, asked.setting);
  set_json(response, {{"predictions", predictions(found, asked.top)},
                      {"setting", found.setting.empty() ? Json() : Json(found.setting)},
                      {"waited_ms", rounded_ms(found.waited)},
                      {"call_ms", rounded_ms(found.seconds)},
                      {"images_of_call", found.together}});
}

void Service::infer(const httplib::Request& request, const std::string& body, httplib::Response& response) {
  check_name(request);
  std::optional<std::string> header;
  if (request.has_header(kHeaderLength)) header = request.get_header_value(kHeaderLength);
  const InferRequest asked = read_infer(body, header, engine_.info(), options_.most_images);
  const vmoe::Answer found = answer(request, asked.images, asked.setting);
  size_t json_size = 0;
  std::string text = write_infer(options_.name, asked, engine_.info(), found.output, found.setting, &json_size);
  if (json_size != 0) response.set_header(kHeaderLength, std::to_string(json_size));
  response.set_content(std::move(text), json_size != 0 ? "application/octet-stream" : "application/json");
}

vmoe::Answer Service::answer(const httplib::Request& request, const ImageBatch& batch, const std::string& setting) {
  if (!setting.empty() && engine_.profiles().empty()) {
    throw RequestError("this model has nothing to set: it takes no 'setting'");
  }
  auto pending = batcher_.submit(batch.images(engine_.info()), setting);
  if (!pending) throw RequestError(pending.error());
  while (!pending->wait_for(kLook)) {
    // Nobody would hear the answer. A client that only ends its own side looks the same, and counts as gone.
    if (request.is_connection_closed() && pending->cancel()) break;
  }
  auto answer = pending->wait();
  if (!answer) throw RequestError(answer.error());
  return std::move(*answer);
}

Json Service::predictions(const vmoe::Answer& answer, int64_t top) const {
  const vmoe::Info& info = engine_.info();
  const auto classes = static_cast<size_t>(info.output_size);
  std::vector<size_t> order(classes);
  std::vector<double> shares(classes);
  Json all = Json::array();
  for (size_t first = 0; first < answer.output.size(); first += classes) {
    const float* logits = answer.output.data() + first;
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    const double most = logits[order[0]];
    double sum = 0;
    for (size_t i = 0; i < classes; ++i) sum += shares[i] = std::exp(static_cast<double>(logits[i]) - most);
    Json best = Json::array();
    for (size_t i = 0; i < std::min(classes, static_cast<size_t>(top)); ++i) {
      const double share = shares[order[i]] / sum;
      best.push_back({{"class", info.class_names.empty() ? std::to_string(order[i]) : info.class_names[order[i]]},
                      {"index", order[i]},
                      {"probability", std::isfinite(share) ? Json(share) : Json()}});
    }
    all.push_back(std::move(best));
  }
  return all;
}

Json Service::model() const {
  const vmoe::Info& info = engine_.info();
  Json profiles = Json::array();
  for (const vmoe::Profile& profile : engine_.profiles()) profiles.push_back(profile.name);
  const std::string level = batcher_.load().level;
  Json outputs = {-1, info.output_size};
  if (info.output == VMOE_MEMBERS) outputs = {-1, info.ensemble_size, info.output_size / info.ensemble_size};
  return {{"name", options_.name},
          {"versions", Json::array({"1"})},
          {"platform", "vmoe-export, " + info.runtime},
          {"inputs", Json::array({{{"name", "image"},
                                   {"datatype", info.input_dtype == VMOE_UINT8 ? "UINT8" : "FP32"},
                                   {"shape", {-1, info.height, info.width, info.channels}}}})},
          {"outputs", Json::array({{{"name", output_name(info)}, {"datatype", "FP32"}, {"shape", outputs}}})},
          {"parameters", {{"profiles", profiles}, {"level", level.empty() ? Json() : Json(level)}}}};
}

Json Service::health() const {
  const vmoe::BatcherLoad load = batcher_.load();
  return {{"status", "ok"},
          {"model", options_.name},
          {"waiting", load.waiting},
          {"level", load.level.empty() ? Json() : Json(load.level)}};
}

void Service::check_name(const httplib::Request& request) const {
  const std::string& model = request.path_params.at("model");
  if (model != options_.name) {
    throw RequestError("there is no model '" + model.substr(0, 80) + "'; '" + options_.name + "' is served here", 404);
  }
}
