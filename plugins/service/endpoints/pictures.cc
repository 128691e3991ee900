// Classifies pictures, or returns their features.
#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "requests.h"
#include "service.h"

namespace {

bool is_json(std::string_view content_type) {
  return boost::beast::iequals(content_type.substr(0, content_type.find_first_of("; \t")), kJson);
}

// Reads a body that is either JSON or one picture. If the body starts with a brace, it is read as JSON, because no
// picture starts with a brace. The content type does not matter for this choice.
Input read_pictures(Request& request, int64_t most_images) {
  const std::string_view content_type = request[http::field::content_type];
  Input values = read_query("pictures", query_of(request));
  if (is_json(content_type) || request.body().starts_with('{')) {
    Input body = read_json(request.body(), 100, static_cast<size_t>(most_images) + 1000);
    for (auto& [name, value] : body.items()) {
      if (!value.is_null()) values[name] = std::move(value);
    }
    read_object("pictures", values, "", static_cast<size_t>(most_images));
  } else if (request.body().empty() || content_type.starts_with("multipart/")) {
    throw RequestError(kNoPicture);
  } else {
    values["images"] = Input::array({""});
    read_object("pictures", values);
    values["images"][0] = std::move(request.body());
  }
  return values;
}

// Returns the fields of a request, without its pictures, and the model's answer to the pictures.
asio::awaitable<std::pair<Input, vmoe::Answer>> answered(Service& service, Exchange& exchange, vmoe_output output) {
  const vmoe_output own = service.engine.info().output;
  if (own != output) {
    throw RequestError(own == VMOE_LOGITS     ? kLogitsModel
                       : own == VMOE_FEATURES ? kFeaturesModel
                       : own == VMOE_MEMBERS  ? kMembersModel
                                              : kTokensModel);
  }
  Input request = read_pictures(exchange.request, service.options.batch_size);
  ImageBatch images = co_await service.decode(request["images"], exchange.has_gone);
  request.erase("images");
  vmoe::Answer answer = co_await service.run(std::move(images), request["setting"], exchange.has_gone);
  co_return std::pair(std::move(request), std::move(answer));
}

Response reply(const char* name, Json content, const vmoe::Answer& answer) {
  const auto rounded_ms = [](double seconds) { return std::round(seconds * 1e6) / 1e3; };
  return json_response({{name, std::move(content)},
                        {"setting", answer.setting.empty() ? Json() : Json(answer.setting)},
                        {"waited_ms", rounded_ms(answer.waited)},
                        {"call_ms", rounded_ms(answer.seconds)},
                        {"images_of_call", answer.batch_size}});
}

Response classes(const Service& service, const Input& request, const vmoe::Answer& answer) {
  const vmoe::Info& info = service.engine.info();
  const auto count = static_cast<size_t>(info.output_size);
  Json predictions = Json::array();
  for (size_t first = 0; first < answer.output.size(); first += count) {
    const float* logits = answer.output.data() + first;
    const std::vector<size_t> order = service.most_probable(logits);
    const std::vector<double> probabilities = info.probabilities_of(logits);
    Json best = Json::array();
    for (size_t i = 0; i < std::min(count, request["top"].get<size_t>()); ++i) {
      best.push_back({{"class", info.class_names.empty() ? std::to_string(order[i]) : info.class_names[order[i]]},
                      {"index", order[i]},
                      {"probability", probabilities[order[i]]}});
    }
    predictions.push_back(std::move(best));
  }
  return reply("predictions", std::move(predictions), answer);
}

asio::awaitable<Response> classified(Service& service, Exchange& exchange) {
  const auto [request, answer] = co_await answered(service, exchange, VMOE_LOGITS);
  co_return classes(service, request, answer);
}

asio::awaitable<Response> embedded(Service& service, Exchange& exchange) {
  const auto [request, answer] = co_await answered(service, exchange, VMOE_FEATURES);
  const int64_t size = service.engine.info().output_size;
  Json features = Json::array();
  for (auto row = answer.output.begin(); row != answer.output.end(); row += size) {
    features.emplace_back(std::vector<float>(row, row + size));
  }
  co_return reply("features", std::move(features), answer);
}

}  // namespace

asio::awaitable<Response> endpoints::classify(Service& service, Exchange& exchange) {
  return run_on(service.pictures, classified(service, exchange));
}

asio::awaitable<Response> endpoints::features(Service& service, Exchange& exchange) {
  return run_on(service.pictures, embedded(service, exchange));
}
