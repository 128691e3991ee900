#include "requests.h"

#include <openssl/evp.h>
#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>

namespace {

// Objects that find a field in no time, however many there are.
using Input = nlohmann::json;

constexpr size_t kMostShown = 60;  // bytes of a client's text that a message repeats
constexpr int kMostDepth = 64;     // of nested JSON, which is copied and shown by recursion

[[noreturn]] void refuse(const std::string& message) { throw RequestError(message); }

std::string shown(const Input& value) {
  const std::string text = value.dump(-1, ' ', false, Input::error_handler_t::replace);
  return text.size() <= kMostShown ? text : text.substr(0, kMostShown) + "...";
}

// The object of a text. A number takes 16 bytes of memory, another value up to 100, however short it is written: what
// no request needs is refused while it is read.
Input read_object(std::string_view text, size_t most_numbers, size_t most_others) {
  size_t numbers = 0, others = 0;
  const auto check = [&](int depth, Input::parse_event_t event, const Input& value) {
    if (event == Input::parse_event_t::array_end || event == Input::parse_event_t::object_end) return true;
    const bool nests = event == Input::parse_event_t::array_start || event == Input::parse_event_t::object_start;
    if (nests && depth >= kMostDepth) {
      refuse("the request's lists and objects are nested more than " + std::to_string(kMostDepth) + " deep");
    }
    ++(value.is_number() ? numbers : others);
    if (numbers > most_numbers || others > most_others) refuse("the request has more values than the model can need");
    return true;
  };
  Input object;
  try {
    object = Input::parse(text, check);
  } catch (const Input::exception& error) {
    // Behind "[json.exception.parse_error.101] ", and without what was read last or expected.
    const std::string what = error.what();
    const size_t from = std::min(what.size(), what.find("] ") + 2);
    refuse("the request is no JSON: " + what.substr(from, std::min<size_t>(what.find("; ", from) - from, 100)));
  }
  if (!object.is_object()) refuse("the request must be a JSON object");
  return object;
}

// null where there is no such field.
const Input& field(const Input& object, const char* name) {
  static const Input none;
  const auto found = object.find(name);
  return found == object.end() ? none : *found;
}

std::string read_setting(const Input& object) {
  const Input& setting = field(object, "setting");
  if (setting.is_null()) return {};
  if (!setting.is_string() || setting == "") refuse("'setting' must be the name of a profile, not " + shown(setting));
  return setting;
}

const Input& parameters_of(const Input& object) {
  static const Input none = Input::object();
  const Input& parameters = field(object, "parameters");
  if (parameters.is_null()) return none;
  if (!parameters.is_object()) refuse("'parameters' must be an object");
  return parameters;
}

std::string from_base64(const std::string& text) {
  std::string bytes(text.size() / 4 * 3 + 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) refuse("'images' must be picture files in base64, and one of them isn't");
  bytes.resize(static_cast<size_t>(size));
  for (int i = 0; i < 2 && text.size() > 2 && text[text.size() - 1 - i] == '='; ++i) bytes.pop_back();
  return bytes;
}

// The whole number of a text; nothing where it is none.
std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && error == std::errc() && rest == text.data() + text.size() ? std::optional(value)
                                                                                    : std::nullopt;
}

bool is_json(std::string_view content_type) {
  constexpr std::string_view kJson = "application/json";
  const std::string_view type = content_type.substr(0, content_type.find_first_of("; \t"));
  return type.size() == kJson.size() && strncasecmp(type.data(), kJson.data(), kJson.size()) == 0;
}

bool is_size(const Input& value) {
  return value.is_number_integer() && value >= 0 && value.get<uint64_t>() <= uint64_t{1} << 40;
}

// The number of images; checks their shape.
int64_t read_count(const Input& tensor, const vmoe::Info& info, int64_t most_images) {
  const Input& shape = field(tensor, "shape");
  const Input takes = {"N", info.height, info.width, info.channels};
  if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_size)) {
    refuse("the shape of 'image' must be a list of whole numbers, " + shown(takes));
  }
  if (shape.size() != 4 || shape[1] != info.height || shape[2] != info.width || shape[3] != info.channels) {
    refuse("'image' has shape " + shown(shape) + ", and the model takes " + shown(takes));
  }
  const int64_t count = shape[0];
  if (count < 1 || count > most_images) {
    refuse("a request takes 1 to " + std::to_string(most_images) + " images, not " + std::to_string(count));
  }
  return count;
}

// Numbers of JSON, flat or nested.
void append_values(const Input& list, vmoe_dtype dtype, std::vector<uint8_t>& data) {
  if (!list.is_array()) refuse("'data' of 'image' must be a list of numbers");
  for (const Input& value : list) {
    if (value.is_array()) {
      append_values(value, dtype, data);
      continue;
    }
    if (!value.is_number()) refuse("'data' of 'image' must be a list of numbers");
    if (dtype == VMOE_UINT8) {
      if (!value.is_number_integer() || value < 0 || value > 255) {
        refuse("'data' of datatype UINT8 must be whole numbers from 0 to 255");
      }
      data.push_back(value.get<uint8_t>());
    } else {
      const float number = value.get<float>();
      const auto* bytes = reinterpret_cast<const uint8_t*>(&number);
      data.insert(data.end(), bytes, bytes + sizeof(number));
    }
  }
}

// Pixels 0..255 that were not scaled would get an answer, and a wrong one.
void check_range(const ImageBatch& batch) {
  constexpr float kMost = 2;
  for (size_t i = 0; i < batch.data.size(); i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, batch.data.data() + i, sizeof(value));
    if (value < -kMost || value > kMost) {
      refuse(
          "float images go beyond [-2, 2], and the model takes float32 in [-1, 1]; send pixels 0..255 as UINT8, or "
          "scale them: pixels / 255 * 2 - 1");
    }
  }
}

// binary: the bytes behind the JSON.
ImageBatch read_images(const Input& tensor, std::string_view binary, const vmoe::Info& info, int64_t most_images) {
  if (!tensor.is_object() || field(tensor, "name") != "image") refuse("the request must have one input, 'image'");
  const Input& datatype = field(tensor, "datatype");
  if (datatype != "UINT8" && (datatype != "FP32" || info.input_dtype == VMOE_UINT8)) {
    refuse(std::string("the datatype of 'image' must be ") + (info.input_dtype == VMOE_UINT8 ? "" : "FP32 or ") +
           "UINT8, not " + shown(datatype));
  }
  ImageBatch batch{datatype == "UINT8" ? VMOE_UINT8 : VMOE_FLOAT32, read_count(tensor, info, most_images), {}};
  const size_t values = batch.count * info.height * info.width * info.channels;
  const size_t bytes = values * (batch.dtype == VMOE_UINT8 ? 1 : sizeof(float));
  const Input& size = field(parameters_of(tensor), "binary_data_size");
  if (!size.is_null()) {
    if (!is_size(size) || size != binary.size() || binary.size() != bytes) {
      refuse("'image' of this shape has " + std::to_string(bytes) + " bytes, and " + std::to_string(binary.size()) +
             " stand behind the JSON");
    }
    batch.data.assign(binary.begin(), binary.end());
  } else {
    if (!binary.empty()) refuse("there are bytes behind the JSON that no input claims by binary_data_size");
    batch.data.reserve(bytes);
    append_values(field(tensor, "data"), batch.dtype, batch.data);
    if (batch.data.size() != bytes) refuse("'data' of 'image' has more or fewer values than its shape says");
  }
  if (batch.dtype == VMOE_FLOAT32) check_range(batch);
  return batch;
}

std::string output_name(const vmoe::Info& info) {
  return info.output == VMOE_FEATURES ? "features" : info.output == VMOE_MEMBERS ? "members" : "logits";
}

Json output_tensor(const vmoe::Info& info, int64_t count) {
  Json shape = {count, info.output_size};
  if (info.output == VMOE_MEMBERS) shape = {count, info.ensemble_size, info.output_size / info.ensemble_size};
  return {{"name", output_name(info)}, {"datatype", "FP32"}, {"shape", shape}};
}

int status_of(vmoe_code code) {
  switch (code) {
    case VMOE_ROUTING_ERROR:
    case VMOE_IMAGE_ERROR:
    case VMOE_ARGUMENT_ERROR: return 400;
    case VMOE_BUSY:
    case VMOE_CLOSED:
    case VMOE_CANCELLED:
    case VMOE_MEMORY_ERROR: return 503;
    default: return 500;
  }
}

Json reply(const char* name, Json found, const vmoe::Answer& answer) {
  const auto rounded_ms = [](double seconds) { return std::round(seconds * 1e6) / 1e3; };
  return {{name, std::move(found)},
          {"setting", answer.setting.empty() ? Json() : Json(answer.setting)},
          {"waited_ms", rounded_ms(answer.waited)},
          {"call_ms", rounded_ms(answer.seconds)},
          {"images_of_call", answer.together}};
}

}  // namespace

RequestError::RequestError(const vmoe::Error& error) : RequestError(error.message, status_of(error.code)) {}

ClassifyRequest read_classify(std::string_view query, std::string_view content_type, std::string body,
                              int64_t most_images) {
  ClassifyRequest request;
  Input top;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&')), name = pair.substr(0, pair.find('='));
    const std::string_view value = pair.substr(std::min(pair.size(), name.size() + 1));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    if (name == "setting") {
      request.setting = value;
    } else if (name == "top") {
      top = whole_number(value).value_or(0);
    } else if (!name.empty()) {
      refuse("the query has a parameter '" + std::string(name.substr(0, kMostShown)) + "'; top and setting are known");
    }
  }
  if (is_json(content_type) || body.starts_with('{')) {  // as no picture does
    const Input object = read_object(body, 100, static_cast<size_t>(most_images) + 1000);
    for (const auto& [name, value] : object.items()) {
      if (name != "images" && name != "top" && name != "setting") {
        refuse("the request has a field '" + name.substr(0, kMostShown) + "'; images, top and setting are known");
      }
    }
    const Input& images = field(object, "images");
    if (!images.is_array() || images.empty() ||
        !std::all_of(images.begin(), images.end(), [](const Input& image) { return image.is_string(); })) {
      refuse("'images' must be a list of picture files in base64");
    }
    if (static_cast<int64_t>(images.size()) > most_images) {
      refuse("a request takes at most " + std::to_string(most_images) + " images, not " +
             std::to_string(images.size()));
    }
    for (const Input& image : images) request.pictures.push_back(from_base64(image.get_ref<const std::string&>()));
    if (const Input& value = field(object, "top"); !value.is_null()) top = value;
    if (const std::string setting = read_setting(object); !setting.empty()) request.setting = setting;
  } else if (body.empty() || content_type.starts_with("multipart/")) {
    refuse("the request has no picture as its body: send one as it is, or JSON with 'images'");
  } else {
    request.pictures.push_back(std::move(body));
  }
  if (!top.is_null()) {
    if (!top.is_number_integer() || top < 1) refuse("'top' must be a whole number from 1 on");
    request.top = static_cast<int64_t>(std::min<uint64_t>(top.get<uint64_t>(), uint64_t{1} << 32));
  }
  return request;
}

InferRequest read_infer(std::string_view json_length, std::string_view body, const vmoe::Info& info,
                        int64_t most_images) {
  const auto length = json_length.empty() ? std::optional<int64_t>(body.size()) : whole_number(json_length);
  if (!length || *length < 0 || *length > static_cast<int64_t>(body.size())) {
    refuse("Inference-Header-Content-Length is no number of bytes of the body, which has " +
           std::to_string(body.size()));
  }
  // Numbers, flat or nested, and the lists that they are nested in, down to the rows of the pixels.
  const size_t rows = static_cast<size_t>(most_images * info.height), pixels = rows * static_cast<size_t>(info.width);
  const Input object = read_object(body.substr(0, *length), pixels * static_cast<size_t>(info.channels) + 100,
                                   pixels + rows + static_cast<size_t>(most_images) + 1000);
  const Input& inputs = field(object, "inputs");
  if (!inputs.is_array() || inputs.size() != 1) refuse("the request must have one input, 'image'");
  InferRequest request;
  request.images = read_images(inputs[0], body.substr(*length), info, most_images);
  const Input& parameters = parameters_of(object);
  request.setting = read_setting(parameters);
  const Input* binary = &field(parameters, "binary_data_output");
  if (const Input& outputs = field(object, "outputs"); !outputs.is_null() && outputs != Input::array()) {
    if (!outputs.is_array() || outputs.size() != 1 || !outputs[0].is_object() ||
        field(outputs[0], "name") != output_name(info)) {
      refuse("the model's only output is '" + output_name(info) + "'");
    }
    const Input& wanted = field(parameters_of(outputs[0]), "binary_data");
    if (!wanted.is_null()) binary = &wanted;
  }
  request.binary = *binary == true;
  if (const Input& id = field(object, "id"); !id.is_null()) {
    if (!id.is_string()) refuse("'id' must be a text");
    request.id = id;
  }
  return request;
}

std::string write_infer(const std::string& model, const InferRequest& request, const vmoe::Info& info,
                        const vmoe::Answer& answer, size_t* json_length) {
  Json tensor = output_tensor(info, request.images.count);
  const size_t bytes = answer.output.size() * sizeof(float);
  if (request.binary) {
    tensor["parameters"] = {{"binary_data_size", bytes}};
  } else {
    tensor["data"] = answer.output;  // null for what JSON has no number for
  }
  Json reply = {{"model_name", model}, {"model_version", "1"}, {"outputs", Json::array({std::move(tensor)})}};
  if (!answer.setting.empty()) reply["parameters"] = {{"setting", answer.setting}};
  if (request.id) reply["id"] = *request.id;
  std::string text = to_text(reply);
  *json_length = request.binary ? text.size() : 0;
  if (request.binary) text.append(reinterpret_cast<const char*>(answer.output.data()), bytes);
  return text;
}

Json write_classify(const ClassifyRequest& request, const vmoe::Info& info, const vmoe::Answer& answer) {
  const auto classes = static_cast<size_t>(info.output_size);
  std::vector<size_t> order(classes);
  Json predictions = Json::array();
  for (size_t first = 0; first < answer.output.size(); first += classes) {
    const float* logits = answer.output.data() + first;
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    const auto exponential = [&](size_t i) { return std::exp(double{logits[i]} - double{logits[order[0]]}); };
    double sum = 0;
    for (size_t i = 0; i < classes; ++i) sum += exponential(i);
    Json best = Json::array();
    for (size_t i = 0; i < std::min(classes, static_cast<size_t>(request.top)); ++i) {
      best.push_back({{"class", info.class_names.empty() ? std::to_string(order[i]) : info.class_names[order[i]]},
                      {"index", order[i]},
                      {"probability", exponential(order[i]) / sum}});
    }
    predictions.push_back(std::move(best));
  }
  return reply("predictions", std::move(predictions), answer);
}

Json write_features(const vmoe::Info& info, const vmoe::Answer& answer) {
  Json features = Json::array();
  for (auto row = answer.output.begin(); row != answer.output.end(); row += info.output_size) {
    features.emplace_back(std::vector<float>(row, row + info.output_size));
  }
  return reply("features", std::move(features), answer);
}

Json input_metadata(const vmoe::Info& info) {
  return {{"name", "image"},
          {"datatype", info.input_dtype == VMOE_UINT8 ? "UINT8" : "FP32"},
          {"shape", {-1, info.height, info.width, info.channels}}};
}

Json output_metadata(const vmoe::Info& info) { return output_tensor(info, -1); }

std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
