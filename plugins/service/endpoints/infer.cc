// The `infer` endpoint of the Open Inference Protocol v2. It supports the protocol's binary extension, in which the
// tensors' bytes follow the JSON.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "requests.h"
#include "service.h"

namespace {

// Appends the numbers of a flat or nested JSON list to `data`, as values of `dtype`.
void append_values(const Input& list, vmoe_dtype dtype, std::vector<uint8_t>& data) {
  if (!list.is_array()) throw RequestError(kWrongNumbers);
  for (const Input& value : list) {
    if (value.is_array()) {
      append_values(value, dtype, data);
    } else if (dtype == VMOE_UINT8 && value.is_number_integer() && value >= 0 && value <= 255) {
      data.push_back(value.get<uint8_t>());
    } else if (dtype == VMOE_FLOAT32 && value.is_number()) {
      const float number = value.get<float>();
      const auto* bytes = reinterpret_cast<const uint8_t*>(&number);
      data.insert(data.end(), bytes, bytes + sizeof(number));
    } else {
      throw RequestError(kWrongNumbers);
    }
  }
}

// Refuses two kinds of pixels. For NaN, there is no valid result. For unscaled pixels in 0..255, the result would be
// wrong.
void check_range(const ImageBatch& batch) {
  for (size_t i = 0; i < batch.data.size(); i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, batch.data.data() + i, sizeof(value));
    if (!std::isfinite(value)) throw RequestError(kNotFinite);
    if (value < -kLargestFloat || value > kLargestFloat) {
      throw RequestError(
          "float images go beyond [-2, 2], and the model takes float32 in [-1, 1]; send pixels 0..255 as UINT8, or "
          "scale them: pixels / 255 * 2 - 1");
    }
  }
}

// Reads the images in a request's tensor. `binary` contains the bytes that follow the request's JSON.
ImageBatch read_images(const Input& tensor, std::string_view binary, const vmoe::Info& info, int64_t most_images) {
  const Input& shape = tensor["shape"];
  const int64_t count = shape[0];
  if (shape != Input{count, info.height, info.width, info.channels}) {
    throw RequestError("'image' has shape " + shown(shape) + ", and the model takes " +
                       shown({"N", info.height, info.width, info.channels}));
  }
  if (count < 1 || count > most_images) throw RequestError(kWrongImageCount, most_images, count);
  ImageBatch batch{tensor["datatype"] == "UINT8" ? VMOE_UINT8 : VMOE_FLOAT32, count, {}};
  const size_t values = count * info.height * info.width * info.channels;
  const size_t item = batch.dtype == VMOE_UINT8 ? 1 : sizeof(float), bytes = values * item;
  const Input& size = tensor["parameters"]["binary_data_size"];
  if (!size.is_null()) {
    if (size != binary.size() || bytes != binary.size()) {
      throw RequestError(kWrongBytes, shown(shape), bytes, binary.size());
    }
    batch.data.assign(binary.begin(), binary.end());
  } else {
    if (!binary.empty()) throw RequestError(kUnclaimedBytes);
    batch.data.reserve(bytes);
    append_values(tensor["data"], batch.dtype, batch.data);
    if (batch.data.size() != bytes) throw RequestError(kWrongCount, shown(shape), values, batch.data.size() / item);
  }
  if (batch.dtype == VMOE_FLOAT32) check_range(batch);
  return batch;
}

// Refuses outputs that the model does not have, and outputs that are requested twice. Also refuses to list the most
// probable classes for an output other than the logits.
void check_outputs(const Input& asked, const vmoe::Info& info) {
  std::set<std::string> left;
  std::string known;
  for (const vmoe::OutputShape& output : info.outputs) {
    left.insert(output.name);
    known += (known.empty() ? "" : "', '") + output.name;
  }
  for (const Input& output : asked) {
    const std::string name = output["name"];
    if (left.erase(name) == 0) throw RequestError(info.outputs.size() > 1 ? kWrongOutputs : kWrongOutput, known);
    if (name != "logits" && !output["parameters"]["classification"].is_null()) throw RequestError(kNoClasses, name);
  }
}

// Returns the fields of a request and the images of its tensor.
std::pair<Input, ImageBatch> read_infer(const Request& request, const vmoe::Info& info, int64_t most_images) {
  const std::string_view body = request.body(), json_length = request[kHeaderLength];
  const auto length = json_length.empty() ? std::optional<int64_t>(body.size()) : whole_number(json_length);
  if (json_length.size() > kMaxDigits || !length || *length < 0 || *length > static_cast<int64_t>(body.size())) {
    throw RequestError(kWrongLength, shown(json_length), body.size());
  }
  // The numbers may be in nested lists, with one list for each image, row and pixel.
  const size_t rows = static_cast<size_t>(most_images * info.height), pixels = rows * static_cast<size_t>(info.width);
  Input fields = read_json(body.substr(0, *length), pixels * static_cast<size_t>(info.channels) + 100,
                           pixels + rows + static_cast<size_t>(most_images) + 1000);
  read_object("infer", fields);
  check_outputs(fields["outputs"], info);
  ImageBatch images = read_images(fields["inputs"][0], body.substr(*length), info, most_images);
  return {std::move(fields), std::move(images)};
}

// Returns the `most` most probable classes for each image in Triton's format, which is one string LOGIT:INDEX:NAME per
// class. If the model has no class names, the strings are LOGIT:INDEX.
std::vector<std::string> most_probable(const Service& service, const std::vector<float>& logits, size_t most) {
  const vmoe::Info& info = service.engine.info();
  std::vector<std::string> texts;
  for (size_t first = 0; first < logits.size(); first += static_cast<size_t>(info.output_size)) {
    const std::vector<size_t> order = service.most_probable(&logits[first]);
    for (size_t i = 0; i < std::min(most, order.size()); ++i) {
      texts.push_back(std::to_string(logits[first + order[i]]) + ':' + std::to_string(order[i]));
      if (!info.class_names.empty()) texts.back() += ':' + info.class_names[order[i]];
    }
  }
  return texts;
}

// Encodes the values of a tensor as the bytes that follow the JSON.
std::string as_binary(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string as_binary(const std::vector<std::string>& texts) {
  std::string binary;
  for (const std::string& text : texts) {
    const auto size = static_cast<uint32_t>(text.size());
    binary.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(text);
  }
  return binary;
}

Response reply(const Service& service, const Input& fields, const vmoe::Answer& answer, int64_t count) {
  const vmoe::Info& info = service.engine.info();
  Json tensors = Json::array();
  std::string binary;
  const auto add = [&](const vmoe::OutputShape& output, Input parameters) {
    const bool is_first = output.name == info.outputs.front().name;
    const std::vector<float>& values = is_first ? answer.output : answer.layers.at(output.name);
    Json tensor = output_tensor(output, count);
    const Input& wanted = parameters["binary_data"];
    const bool is_binary = (wanted.is_null() ? fields["parameters"]["binary_data_output"] : wanted) == true;
    const auto add_values = [&](const auto& values) {
      if (!is_binary) {
        tensor["data"] = values;  // NaN and infinity become null, because JSON does not have them
        return;
      }
      const std::string bytes = as_binary(values);
      tensor["parameters"] = {{"binary_data_size", bytes.size()}};
      binary += bytes;
    };
    if (const Input& most = parameters["classification"]; most.is_null()) {
      add_values(values);
    } else {
      const auto texts = most_probable(service, values, most);
      tensor["datatype"] = "BYTES";
      tensor["shape"][1] = texts.size() / static_cast<size_t>(count);
      add_values(texts);
    }
    tensors.push_back(std::move(tensor));
  };
  for (const vmoe::OutputShape& output : info.outputs) {
    if (fields["outputs"].empty()) add(output, {});
    for (const Input& asked : fields["outputs"]) {
      if (asked["name"] == output.name) add(output, asked["parameters"]);
    }
  }
  Json reply = {{"model_name", service.options.name}, {"model_version", kVersion}, {"outputs", std::move(tensors)}};
  if (!answer.setting.empty()) reply["parameters"] = {{"setting", answer.setting}};
  if (!fields["id"].is_null()) reply["id"] = fields["id"];
  std::string text = to_text(reply);
  if (binary.empty()) return text_response(std::move(text), kJson);
  const size_t json_length = text.size();
  Response response = text_response(text + binary, kBinary);
  response.set(kHeaderLength, std::to_string(json_length));
  return response;
}

asio::awaitable<Response> answered(Service& service, Exchange& exchange) {
  auto [fields, images] = read_infer(exchange.request, service.engine.info(), service.options.max_waiting);
  const int64_t count = images.count;
  const vmoe::Answer answer =
      co_await service.run(std::move(images), fields["parameters"]["setting"], exchange.has_gone);
  co_return reply(service, fields, answer, count);
}

}  // namespace

asio::awaitable<Response> endpoints::infer(Service& service, Exchange& exchange) {
  return run_on(service.tensors, answered(service, exchange));
}
