// What requests and answers look like: JSON, pictures, and the Open Inference Protocol, version 2, with its binary
// extension, which puts tensors behind the JSON.
#ifndef VMOE_HTTP_REQUESTS_H_
#define VMOE_HTTP_REQUESTS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>
#include <vmoe/engine.hpp>

using Json = nlohmann::ordered_json;

inline constexpr char kHeaderLength[] = "Inference-Header-Content-Length";

// A refusal: the status and the sentence of the answer.
class RequestError : public std::runtime_error {
 public:
  explicit RequestError(const std::string& sentence, int status = 400)
      : std::runtime_error(sentence), status_(status) {}
  // The engine's refusal, with the status that its code stands for.
  explicit RequestError(const vmoe::Error& error);
  int status() const { return status_; }

 private:
  int status_;
};

// An engine's input, input_dtype or uint8 [count,H,W,C].
struct ImageBatch {
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t count = 0;
  std::vector<float> floats;   // where the dtype is float32
  std::vector<uint8_t> bytes;  // where it is uint8

  vmoe::Images images(const vmoe::Info& info) const {
    const void* data = dtype == VMOE_UINT8 ? static_cast<const void*>(bytes.data()) : floats.data();
    return {data, dtype, count, info.height, info.width, info.channels};
  }
};

struct ClassifyRequest {
  std::vector<std::string_view> pictures;  // encoded files, in the request's body or in `decoded`
  std::vector<std::string> decoded;        // from base64
  int64_t top = 5;
  std::string setting;  // empty leaves it to the server

  ClassifyRequest() = default;
  ClassifyRequest(ClassifyRequest&&) = default;  // a copy would have the pictures of the original
};

struct InferRequest {
  ImageBatch images;
  std::string setting;  // empty leaves it to the server
  std::optional<std::string> id;
  bool binary = false;  // the answer's tensor is wanted behind its JSON
};

// Reads {"images": [BASE64, ...], "top": N, "setting": NAME}, or one picture; the query may have the latter two.
// The body must outlive the result. Throws RequestError.
ClassifyRequest read_classify(const std::string& body, const std::string& content_type,
                              const std::optional<std::string>& top, const std::string& setting, int64_t most_pictures);

// Reads a request with one input `image`, FP32 or UINT8. header_length: what the header of kHeaderLength says. Throws
// RequestError.
InferRequest read_infer(const std::string& body, const std::optional<std::string>& header_length,
                        const vmoe::Info& info, int64_t most_images);

// The answer's body; *json_size is the size of its JSON where tensors stand behind it, 0 otherwise.
std::string write_infer(const std::string& model, const InferRequest& request, const vmoe::Info& info,
                        const std::vector<float>& output, const std::string& setting, size_t* json_size);

// "logits", "features" or "members".
const char* output_name(const vmoe::Info& info);

// JSON; what is no UTF-8 is replaced.
std::string to_text(const Json& json);

#endif  // VMOE_HTTP_REQUESTS_H_
