// What requests and answers look like: JSON, pictures, and the Open Inference Protocol, version 2, with its binary
// extension, which puts tensors behind the JSON.
#ifndef VMOE_SERVICE_REQUESTS_H_
#define VMOE_SERVICE_REQUESTS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>
#include <vmoe/batcher.hpp>

using Json = nlohmann::ordered_json;

// A refusal: the status and the message of the reply.
class RequestError : public std::runtime_error {
 public:
  explicit RequestError(const std::string& message, int status = 400) : std::runtime_error(message), status_(status) {}
  // The engine's refusal, with the status that its code stands for.
  explicit RequestError(const vmoe::Error& error);
  int status() const { return status_; }

 private:
  int status_;
};

// An engine's input, dtype[count,H,W,C].
struct ImageBatch {
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t count = 0;
  std::vector<uint8_t> data;

  vmoe::Images images(const vmoe::Info& info) const {
    return {data.data(), dtype, count, info.height, info.width, info.channels};
  }
};

struct ClassifyRequest {
  std::vector<std::string> pictures;  // encoded files
  int64_t top = 5;
  std::string setting;  // empty leaves it to the server
};

struct InferRequest {
  ImageBatch images;
  std::string setting;  // empty leaves it to the server
  std::optional<std::string> id;
  bool binary = false;  // the reply's tensor is wanted behind its JSON
};

// Reads {"images": [BASE64, ...], "top": N, "setting": NAME}, or one picture, whose query may have the latter two.
// Throws RequestError.
ClassifyRequest read_classify(std::string_view query, std::string_view content_type, std::string body,
                              int64_t most_images);

// Reads a request with one input `image`, FP32 or UINT8. json_length: of the JSON before the tensor, as the header says
// it; empty where there is none. Throws RequestError.
InferRequest read_infer(std::string_view json_length, std::string_view body, const vmoe::Info& info,
                        int64_t most_images);

// The reply's body; *json_length is the length of its JSON where a tensor stands behind it, 0 otherwise.
std::string write_infer(const std::string& model, const InferRequest& request, const vmoe::Info& info,
                        const vmoe::Answer& answer, size_t* json_length);

// The reply to a classify: the most probable classes of each image.
Json write_classify(const ClassifyRequest& request, const vmoe::Info& info, const vmoe::Answer& answer);

// The reply with the features of each image.
Json write_features(const vmoe::Info& info, const vmoe::Answer& answer);

// Metadata of the model's input and output.
Json input_metadata(const vmoe::Info& info);
Json output_metadata(const vmoe::Info& info);

// JSON; bytes that are no UTF-8 are replaced.
std::string to_text(const Json& json);

#endif  // VMOE_SERVICE_REQUESTS_H_
