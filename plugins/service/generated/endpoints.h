// What both HTTP services share, as endpoints.py and batcher_metrics.py in runtime/vmoe_serve declare it. Written by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>

#include "table.h"

inline constexpr char kJson[] = "application/json";
inline constexpr char kBinary[] = "application/octet-stream";
inline constexpr char kPrometheus[] = "text/plain; version=0.0.4; charset=utf-8";
inline constexpr char kHeaderLength[] = "Inference-Header-Content-Length";
inline constexpr char kInputName[] = "image";
inline constexpr int64_t kMaxName = 100;
inline constexpr int64_t kMaxDigits = 19;
inline constexpr char kNamePattern[] = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}";
inline constexpr double kMaxSloMs = 600000.0;
inline constexpr int64_t kMaxWhole = 1099511627776;
inline constexpr int64_t kLargePicture = 2097152;
inline constexpr double kRequestBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0};
inline constexpr int64_t kMostPixels = 33554432;
inline constexpr int64_t kMostScans = 100;
inline constexpr int64_t kMostParts = 65536;
inline constexpr int64_t kLargestFloat = 2;
inline constexpr int64_t kSteps = 8;
inline constexpr int64_t kMostSteps = 1000;
inline constexpr char kRotation[] = "exif";

inline constexpr Refusal kNoModel{404, "there is no model '{}'; '{}' is served here"};
inline constexpr Refusal kNoPath{404, "there is nothing at {}"};
inline constexpr Refusal kNoMethod{405, "{} is not allowed at {}"};
inline constexpr Refusal kTooSlow{408, "the request did not arrive within {} seconds"};
inline constexpr Refusal kTooLarge{413, "the body is larger than {} MB"};
inline constexpr Refusal kManyBodies{503, "too many large requests arrive at once"};
inline constexpr Refusal kNoMemory{503, "there is not enough memory for this request"};
inline constexpr Refusal kDecoding{503, "other pictures were decoded for {} seconds"};
inline constexpr Refusal kNoSettings{400, "this model has nothing to set: it takes no 'setting'"};
inline constexpr Refusal kLogitsModel{400, "this model outputs logits: use /v1/classify"};
inline constexpr Refusal kFeaturesModel{400, "this model outputs features, not classes: use /v1/features"};
inline constexpr Refusal kMembersModel{400, "this model outputs the logits of each member: use infer"};
inline constexpr Refusal kNoPicture{400, "the request has no picture: send a picture file as the body, or JSON with 'images'"};
inline constexpr Refusal kWrongImageCount{400, "a request takes 1 to {} images, not {}"};
inline constexpr Refusal kNoJson{400, "the request is not JSON: {}"};
inline constexpr Refusal kNoObject{400, "the request must be a JSON object"};
inline constexpr Refusal kUnknownField{400, "the request has a field {}; {} are known"};
inline constexpr Refusal kTooDeep{400, "the request's lists and objects are nested more than {} deep"};
inline constexpr Refusal kTooManyValues{400, "the request has more values than the model can need"};
inline constexpr Refusal kNoField{400, "the request has no '{}'"};
inline constexpr Refusal kWrongField{400, "'{}' must be {}, not {}"};
inline constexpr Refusal kWrongList{400, "'{}' must be a list of {} to {} items"};
inline constexpr Refusal kWrongOutput{400, "the model's only output is '{}'"};
inline constexpr Refusal kWrongLength{400, "Inference-Header-Content-Length is {}, and the body has {} bytes"};
inline constexpr Refusal kWrongBytes{400, "'image' of shape {} has {} bytes, and {} follow the JSON"};
inline constexpr Refusal kUnclaimedBytes{400, "bytes follow the JSON, and no input claims them by binary_data_size"};
inline constexpr Refusal kWrongCount{400, "'image' of shape {} has {} values, and 'data' has {}"};
inline constexpr Refusal kWrongNumbers{400, "'data' of 'image' must be a list of numbers, and for UINT8 of whole numbers from 0 to 255"};
inline constexpr Refusal kNotFinite{400, "'image' has NaN or infinite values"};
inline constexpr Refusal kNoHttp{400, "the request can't be understood: {}"};
inline constexpr Refusal kOldHttp{400, "only HTTP/1.0 and HTTP/1.1 are supported"};
inline constexpr Refusal kNoHost{400, "the request must have one Host header"};
inline constexpr Refusal kNoEnd{400, "the end of the body is unclear: send Content-Length, or Transfer-Encoding: chunked"};
inline constexpr Refusal kLateHeaders{400, "headers after the body are not accepted"};
inline constexpr Refusal kNoBodyTaken{400, "{} takes no body"};
inline constexpr Refusal kNoBodyLength{411, "send the body's Content-Length, or chunks"};
inline constexpr Refusal kEncodedBody{415, "send the body without encoding"};
inline constexpr Refusal kLongHead{431, "the first line and the headers have more than {} bytes"};
inline constexpr Refusal kManyClients{503, "too many clients are connected"};
inline constexpr Metric kRequestSeconds{"vmoe_request_seconds", "Seconds from a request to its reply.", false, nullptr};
inline constexpr Metric kServed{"vmoe_images_served_total", "Images that were answered, by the setting that served them.", false, nullptr};
inline constexpr Metric kUnturned{"vmoe_pictures_unturned_total", "Pictures with an EXIF orientation that were taken as they are stored.", false, nullptr};
inline constexpr Metric kNumbers[] = {
    {"vmoe_images_waiting", "Images in the queue.", true, [](const vmoe::BatcherLoad& load) { return static_cast<double>(load.waiting); }},
    {"vmoe_calls_total", "Calls of the engine.", false, [](const vmoe::BatcherLoad& load) { return static_cast<double>(load.calls); }},
    {"vmoe_busy_seconds_total", "Seconds of these calls.", false, [](const vmoe::BatcherLoad& load) { return static_cast<double>(load.busy); }},
    {"vmoe_requests_refused_total", "Requests that found the queue full.", false, [](const vmoe::BatcherLoad& load) { return static_cast<double>(load.refused); }},
    {"vmoe_requests_cancelled_total", "Requests whose client disconnected in the queue.", false, [](const vmoe::BatcherLoad& load) { return static_cast<double>(load.cancelled); }},
};

inline constexpr Field kFields[] = {
    {"pictures", "images", "", "null", "a picture file in base64", FieldType::kPicture, 0, 1, 1048576, true, false, true, {}},
    {"pictures", "top", "", "5", "a whole number, 1 or more", FieldType::kWhole, 1, 0, 0, false, true, true, {}},
    {"pictures", "setting", "", "null", "a text that is not empty", FieldType::kText, 1, 0, 0, false, true, true, {}},
    {"infer", "inputs", "input", "null", "an object", FieldType::kObject, 0, 1, 1, true, false, false, {}},
    {"infer", "outputs", "output", "[]", "an object", FieldType::kObject, 0, 0, 1, false, false, false, {}},
    {"infer", "parameters", "parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"infer", "id", "", "null", "a text", FieldType::kText, 0, 0, 0, false, false, false, {}},
    {"parameters", "setting", "", "null", "a text that is not empty", FieldType::kText, 1, 0, 0, false, false, false, {}},
    {"parameters", "binary_data_output", "", "false", "true or false", FieldType::kFlag, 0, 0, 0, false, false, false, {}},
    {"input", "name", "", "null", "'image'", FieldType::kText, 0, 0, 0, true, false, false, {"image"}},
    {"input", "datatype", "", "null", "'FP32' or 'UINT8'", FieldType::kText, 0, 0, 0, true, false, false, {"FP32", "UINT8"}},
    {"input", "shape", "", "null", "a whole number, 0 or more", FieldType::kWhole, 0, 1, 8, true, false, false, {}},
    {"input", "data", "", "null", "an object", FieldType::kAny, 0, 0, 0, false, false, false, {}},
    {"input", "parameters", "input_parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"input_parameters", "binary_data_size", "", "null", "a whole number, 0 or more", FieldType::kWhole, 0, 0, 0, false, false, false, {}},
    {"output", "name", "", "null", "a text", FieldType::kText, 0, 0, 0, true, false, false, {}},
    {"output", "parameters", "output_parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"output_parameters", "binary_data", "", "null", "true or false", FieldType::kFlag, 0, 0, 0, false, false, false, {}},
};

struct NumberOptions { int batch_size = 16, max_waiting = 256, max_body = 16, request_seconds = 10; };
struct NumberOption { const char* name; int NumberOptions::*value; int maximum; const char* help; };
inline constexpr NumberOption kNumberOptions[] = {
    {"--batch-size", &NumberOptions::batch_size, 4096, "Maximum number of images per call and per request."},
    {"--max-waiting", &NumberOptions::max_waiting, 1048576, "Maximum number of images in the queue; further requests get 503."},
    {"--max-body", &NumberOptions::max_body, 1024, "Maximum size of a request's body in megabytes; larger ones get 413."},
    {"--request-seconds", &NumberOptions::request_seconds, 3600, "Maximum number of seconds for a request to arrive; slower ones get 408."},
};

namespace endpoints {
Response classify(Service&, Exchange&);
Response features(Service&, Exchange&);
Response infer(Service&, Exchange&);
Response model(Service&, Exchange&);
Response model_ready(Service&, Exchange&);
Response server(Service&, Exchange&);
Response health(Service&, Exchange&);
Response metrics(Service&, Exchange&);
}  // namespace endpoints
inline constexpr Route kRoutes[] = {
    {"/v1/classify", true, "classify", endpoints::classify},
    {"/v1/features", true, "features", endpoints::features},
    {"/v2/models/{model}/infer", true, "infer", endpoints::infer},
    {"/v2/models/{model}", false, "model", endpoints::model},
    {"/v2/models/{model}/ready", false, "model", endpoints::model_ready},
    {"/v2", false, "model", endpoints::server},
    {"/healthz", false, "", endpoints::health},
    {"/v2/health/live", false, "", endpoints::health},
    {"/v2/health/ready", false, "", endpoints::health},
    {"/metrics", false, "", endpoints::metrics},
};
