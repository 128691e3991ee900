// Describes the server and the model as the Open Inference Protocol prescribes, and reports the server's state.
#include <boost/algorithm/string/replace.hpp>
#include <string>

#include "requests.h"
#include "service.h"

asio::awaitable<Response> endpoints::server(Service&, Exchange&) {
  co_return json_response({{"name", "vmoe-export"},
                           {"version", vmoe_version()},
                           {"extensions", {"binary_tensor_data", "classification", "model_repository", "parameters"}}});
}

namespace {

asio::awaitable<Response> index(Service& service, Exchange& exchange) {
  const std::string& body = exchange.request.body();
  Input asked = read_json(body.empty() ? "{}" : body, 100, 100);
  read_object("repository", asked);
  const Json own = {{"name", service.options.name}, {"version", kVersion}, {"state", "READY"}, {"reason", ""}};
  co_return json_response(Json::array({own}));
}

}  // namespace

asio::awaitable<Response> endpoints::repository(Service& service, Exchange& exchange) {
  return run_on(service.tensors, index(service, exchange));
}

asio::awaitable<Response> endpoints::openapi(Service& service, Exchange&) {
  co_return text_response(boost::replace_all_copy(std::string(kOpenApi), "{model}", service.options.name), kJson);
}

asio::awaitable<Response> endpoints::model(Service& service, Exchange&) {
  const vmoe::Info& info = service.engine.info();
  Json profiles = Json::array();
  for (const vmoe::Profile& profile : service.engine.profiles()) profiles.push_back(profile.name);
  Json outputs = Json::array();
  for (const vmoe::OutputShape& output : info.outputs) outputs.push_back(output_tensor(output, -1));
  const bool has_logits = info.output == VMOE_LOGITS;
  const Json probabilities = has_logits ? Json(info.probabilities == VMOE_SIGMOID ? "sigmoid" : "softmax") : Json();
  const Json input = {{"name", kInputName},
                      {"datatype", info.input_dtype == VMOE_UINT8 ? "UINT8" : "FP32"},
                      {"shape", {-1, info.height, info.width, info.channels}}};
  co_return json_response(
      {{"name", service.options.name},
       {"versions", Json::array({kVersion})},
       {"platform", "vmoe-export, " + info.runtime},
       {"inputs", Json::array({input})},
       {"outputs", outputs},
       {"parameters", {{"profiles", profiles}, {"level", service.level()}, {"probabilities", probabilities}}}});
}

asio::awaitable<Response> endpoints::model_ready(Service& service, Exchange&) {
  co_return json_response({{"name", service.options.name}, {"ready", true}});
}

asio::awaitable<Response> endpoints::health(Service& service, Exchange&) {
  co_return json_response({{"status", "ok"},
                           {"live", true},  // this field and the next are part of the Open Inference Protocol
                           {"ready", true},
                           {"model", service.options.name},
                           {"waiting", service.batcher.load().waiting},
                           {"level", service.level()}});
}

asio::awaitable<Response> endpoints::metrics(Service& service, Exchange&) {
  co_return text_response(service.metrics.text(service.options.name, service.batcher.load(), service.unturned),
                          kPrometheus);
}
