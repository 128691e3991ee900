#include "requests.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <thread>

#include "turns.h"

namespace {

constexpr size_t kShown = 60;  // bytes of a client's text that a sentence says again
constexpr int kMostDepth = 64;
constexpr size_t kMostNames = 200;  // objects and their fields: finding a field takes as long as there are fields

// What a request's JSON may have. A number becomes 16 bytes of memory, another value up to 100, whatever it is written
// in.
struct JsonLimits {
  int64_t images;          // that it is for
  size_t numbers, others;  // other values
};

Turns& json_turns() {
  static Turns turns(std::thread::hardware_concurrency());
  return turns;
}

std::string shown(const Json& value) {
  std::string text = to_text(value);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

[[noreturn]] void refuse(const std::string& sentence) { throw RequestError(sentence); }

// The object of a text. What no request needs is refused while it is read: deep values would be copied and shown by
// recursion, many take much memory.
Json read_object(std::string_view text, const JsonLimits& limits) {
  using Event = Json::parse_event_t;
  size_t numbers = 0, others = 0, names = 0;
  const auto check = [&](int depth, Event event, const Json& value) {
    if (event == Event::array_end || event == Event::object_end) return true;
    if (event != Event::value && event != Event::key && depth >= kMostDepth) {
      refuse("the request is no JSON for this model: its lists and objects are more than " +
             std::to_string(kMostDepth) + " deep");
    }
    ++(event == Event::key || event == Event::object_start ? names : value.is_number() ? numbers : others);
    if (numbers > limits.numbers || others > limits.others || names > kMostNames) {
      refuse("the request has more values than one of " + std::to_string(limits.images) + " images needs");
    }
    return true;
  };
  Json value;
  try {
    value = Json::parse(text, check);
  } catch (const Json::exception& error) {
    // Behind "[json.exception.parse_error.101] parse error at ".
    std::string what = error.what();
    what = what.substr(std::min(what.size(), what.find("] ") + 2)).substr(0, 100);
    refuse("the request is no JSON: " + what);
  }
  if (!value.is_object()) refuse("the request must be a JSON object");
  return value;
}

// null where there is no such field.
const Json& field(const Json& object, const char* name) {
  static const Json none;
  const auto found = object.find(name);
  return found == object.end() ? none : *found;
}

std::string read_setting(const Json& object) {
  const Json& setting = field(object, "setting");
  if (setting.is_null()) return {};
  if (!setting.is_string() || setting.get_ref<const std::string&>().empty()) {
    refuse("'setting' must be the name of a profile, not " + shown(setting));
  }
  return setting;
}

// The bytes of a text in base64; nothing where it is none.
std::optional<std::string> from_base64(const std::string& text) {
  static const std::array<int, 256> values = [] {
    std::array<int, 256> made{};
    made.fill(-1);
    constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 64; ++i) made[static_cast<unsigned char>(kDigits[i])] = i;
    return made;
  }();
  if (text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.empty() ? 0 : text.back() != '=' ? 0 : text[text.size() - 2] != '=' ? 1 : 2;
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool padded = i >= text.size() - padding;
    const int value = padded ? 0 : values[static_cast<unsigned char>(text[i])];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(bits >> shift & 0xff));
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

const Json& parameters_of(const Json& object) {
  static const Json none = Json::object();
  const auto found = object.find("parameters");
  if (found == object.end()) return none;
  if (!found->is_object()) refuse("'parameters' must be an object");
  return *found;
}

bool is_size(const Json& value) {
  return value.is_number_integer() && value >= 0 && value.get<uint64_t>() <= uint64_t{1} << 40;
}

std::string input_shape(const vmoe::Info& info) {
  return "[N, " + std::to_string(info.height) + ", " + std::to_string(info.width) + ", " +
         std::to_string(info.channels) + "]";
}

// The number of images; checks their shape.
int64_t read_count(const Json& tensor, const vmoe::Info& info, int64_t most_images) {
  const auto shape = tensor.find("shape");
  if (shape == tensor.end() || !shape->is_array() || !std::all_of(shape->begin(), shape->end(), is_size)) {
    refuse("the shape of 'image' must be a list of whole numbers, " + input_shape(info));
  }
  if (shape->size() != 4 || (*shape)[1] != info.height || (*shape)[2] != info.width || (*shape)[3] != info.channels) {
    refuse("'image' has shape " + shown(*shape) + ", and the model takes " + input_shape(info));
  }
  const int64_t count = (*shape)[0];
  if (count < 1 || count > most_images) {
    refuse("a request takes 1 to " + std::to_string(most_images) + " images, not " + std::to_string(count));
  }
  return count;
}

// Numbers of JSON, flat or nested.
template <typename T>
std::vector<T> read_values(const Json& tensor, size_t count) {
  const auto data = tensor.find("data");
  if (data == tensor.end() || !data->is_array()) refuse("'data' of 'image' must be a list of numbers");
  std::vector<T> values;
  values.reserve(count);
  struct Level {
    const Json* list;
    size_t next;
  };
  for (std::vector<Level> open = {{&*data, 0}}; !open.empty();) {
    Level& level = open.back();
    if (level.next == level.list->size()) {
      open.pop_back();
      continue;
    }
    const Json& value = (*level.list)[level.next++];
    if (value.is_array() && open.size() < 64) {
      open.push_back({&value, 0});
      continue;
    }
    if (!value.is_number()) refuse("'data' of 'image' must be a list of numbers");
    if (values.size() == count) refuse("'data' of 'image' has more values than its shape says");
    if constexpr (std::is_same_v<T, uint8_t>) {
      if (!value.is_number_integer() || value < 0 || value > 255) {
        refuse("'data' of datatype UINT8 must be whole numbers from 0 to 255");
      }
    }
    values.push_back(value.get<T>());
  }
  if (values.size() != count) refuse("'data' of 'image' has fewer values than its shape says");
  return values;
}

template <typename T>
void read_tensor(const Json& tensor, std::string_view behind, size_t count, std::vector<T>& values) {
  const auto& parameters = parameters_of(tensor);
  const auto size = parameters.find("binary_data_size");
  if (size == parameters.end()) {
    if (!behind.empty()) refuse("there are bytes behind the JSON that no input claims by binary_data_size");
    values = read_values<T>(tensor, count);
    return;
  }
  if (!is_size(*size) || *size != behind.size() || behind.size() != count * sizeof(T)) {
    refuse("'image' of this shape has " + std::to_string(count * sizeof(T)) + " bytes, and " +
           std::to_string(behind.size()) + " stand behind the JSON");
  }
  values.resize(count);
  std::memcpy(values.data(), behind.data(), behind.size());
}

// Pixels 0..255 that were not scaled would get an answer, and a wrong one.
void check_range(const std::vector<float>& values) {
  constexpr float kMost = 2;
  for (const float value : values) {
    if (value < -kMost || value > kMost) {
      refuse(
          "float images go beyond [-2, 2], and the model takes float32 in [-1, 1]; send pixels 0..255 as UINT8, or "
          "scale them: pixels / 255 * 2 - 1");
    }
  }
}

ImageBatch read_images(const Json& tensor, std::string_view behind, const vmoe::Info& info, int64_t most_images) {
  if (!tensor.is_object() || field(tensor, "name") != "image") refuse("the request must have one input, 'image'");
  const Json& datatype = field(tensor, "datatype");
  if (datatype != "FP32" && datatype != "UINT8") {
    refuse("the datatype of 'image' must be FP32 or UINT8, not " + shown(datatype));
  }
  ImageBatch batch;
  batch.dtype = datatype == "UINT8" ? VMOE_UINT8 : VMOE_FLOAT32;
  if (batch.dtype == VMOE_FLOAT32 && info.input_dtype == VMOE_UINT8) {
    refuse("'image' is FP32, and the model takes UINT8");
  }
  batch.count = read_count(tensor, info, most_images);
  const auto count = static_cast<size_t>(batch.count * info.height * info.width * info.channels);
  if (batch.dtype == VMOE_UINT8) {
    read_tensor(tensor, behind, count, batch.bytes);
  } else {
    read_tensor(tensor, behind, count, batch.floats);
    check_range(batch.floats);
  }
  return batch;
}

// Numbers, flat or nested, and the lists that they are nested in, down to the rows of the pixels.
JsonLimits infer_limits(const vmoe::Info& info, int64_t most_images) {
  const auto images = static_cast<size_t>(most_images), rows = images * static_cast<size_t>(info.height);
  const size_t pixels = rows * static_cast<size_t>(info.width);
  return {most_images, pixels * static_cast<size_t>(info.channels) + 100, pixels + rows + images + 1000};
}

bool is_json(const std::string& content_type) {
  std::string type = content_type.substr(0, content_type.find(';'));
  type.erase(type.find_last_not_of(" \t") + 1);
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  return type == "application/json";
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

}  // namespace

RequestError::RequestError(const vmoe::Error& error) : RequestError(error.message, status_of(error.code)) {}

ClassifyRequest read_classify(const std::string& body, const std::string& content_type,
                              const std::optional<std::string>& top, const std::string& setting,
                              int64_t most_pictures) {
  ClassifyRequest request;
  request.setting = setting;
  Json wanted;
  if (top) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(top->data(), top->data() + top->size(), value);
    wanted = error == std::errc() && end == top->data() + top->size() ? value : 0;
  }
  if (is_json(content_type)) {
    const Turns::Turn turn(json_turns());
    const Json given = read_object(body, {most_pictures, 100, static_cast<size_t>(most_pictures) + 1000});
    for (const auto& [name, value] : given.items()) {
      if (name != "images" && name != "top" && name != "setting") {
        refuse("the request has a field " + shown(name) + "; images, top and setting are known");
      }
    }
    const Json& images = field(given, "images");
    if (!images.is_array() || images.empty() ||
        !std::all_of(images.begin(), images.end(), [](const Json& image) { return image.is_string(); })) {
      refuse("'images' must be a list of picture files in base64");
    }
    if (static_cast<int64_t>(images.size()) > most_pictures) {
      refuse("a request takes at most " + std::to_string(most_pictures) + " images, not " +
             std::to_string(images.size()));
    }
    for (const Json& image : images) {
      auto bytes = from_base64(image.get_ref<const std::string&>());
      if (!bytes) refuse("'images' must be picture files in base64, and one of them isn't");
      request.decoded.push_back(std::move(*bytes));
    }
    request.pictures.assign(request.decoded.begin(), request.decoded.end());
    if (const Json& in_body = field(given, "top"); !in_body.is_null()) wanted = in_body;
    if (const std::string in_body = read_setting(given); !in_body.empty()) request.setting = in_body;
  } else if (body.empty()) {
    refuse("the request has no body: send a picture, or JSON with 'images'");
  } else {
    request.pictures.emplace_back(body);
  }
  if (!wanted.is_null()) {
    if (!wanted.is_number_integer() || wanted < 1) refuse("'top' must be a whole number from 1 on");
    request.top = static_cast<int64_t>(std::min<uint64_t>(wanted.get<uint64_t>(), uint64_t{1} << 32));
  }
  return request;
}

InferRequest read_infer(const std::string& body, const std::optional<std::string>& header_length,
                        const vmoe::Info& info, int64_t most_images) {
  size_t length = body.size();
  if (header_length) {
    const char* end = header_length->data() + header_length->size();
    const auto [rest, error] = std::from_chars(header_length->data(), end, length);
    if (header_length->empty() || error != std::errc() || rest != end || length > body.size()) {
      refuse(std::string(kHeaderLength) + " is " + shown(*header_length) + ", and the body has " +
             std::to_string(body.size()) + " bytes");
    }
  }
  const Turns::Turn turn(json_turns());
  const std::string_view text = body;
  const Json given = read_object(text.substr(0, length), infer_limits(info, most_images));
  const Json& inputs = field(given, "inputs");
  if (!inputs.is_array() || inputs.size() != 1) refuse("the request must have one input, 'image'");
  InferRequest request;
  request.images = read_images(inputs[0], text.substr(length), info, most_images);
  const Json& parameters = parameters_of(given);
  request.setting = read_setting(parameters);
  const Json* binary = &field(parameters, "binary_data_output");
  if (const auto outputs = given.find("outputs"); outputs != given.end() && *outputs != Json::array()) {
    if (!outputs->is_array() || outputs->size() != 1 || !(*outputs)[0].is_object() ||
        field((*outputs)[0], "name") != output_name(info)) {
      refuse(std::string("the model's only output is '") + output_name(info) + "'");
    }
    const Json& wanted = field(parameters_of((*outputs)[0]), "binary_data");
    if (!wanted.is_null()) binary = &wanted;
  }
  request.binary = binary->is_boolean() && binary->get<bool>();
  if (const auto id = given.find("id"); id != given.end() && !id->is_null()) {
    if (!id->is_string()) refuse("'id' must be a text");
    request.id = *id;
  }
  return request;
}

std::string write_infer(const std::string& model, const InferRequest& request, const vmoe::Info& info,
                        const std::vector<float>& output, const std::string& setting, size_t* json_size) {
  Json shape = {request.images.count, info.output_size};
  if (info.output == VMOE_MEMBERS) {
    shape = {request.images.count, info.ensemble_size, info.output_size / info.ensemble_size};
  }
  Json tensor = {{"name", output_name(info)}, {"datatype", "FP32"}, {"shape", shape}};
  const size_t bytes = output.size() * sizeof(float);
  if (request.binary) {
    tensor["parameters"] = {{"binary_data_size", bytes}};
  } else {
    Json values = Json::array();
    for (const float value : output) values.push_back(std::isfinite(value) ? Json(value) : Json());
    tensor["data"] = std::move(values);
  }
  Json answer = {{"model_name", model}, {"model_version", "1"}, {"outputs", Json::array({std::move(tensor)})}};
  if (!setting.empty()) answer["parameters"] = {{"setting", setting}};
  if (request.id) answer["id"] = *request.id;
  std::string text = to_text(answer);
  *json_size = request.binary ? text.size() : 0;
  if (request.binary) text.append(reinterpret_cast<const char*>(output.data()), bytes);
  return text;
}

const char* output_name(const vmoe::Info& info) {
  switch (info.output) {
    case VMOE_FEATURES: return "features";
    case VMOE_MEMBERS: return "members";
    default: return "logits";
  }
}

std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
