// The endpoints and metrics of both HTTP services. Generated from endpoints.py and metrics.py in runtime/vmoe_serve by
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
inline constexpr char kVersion[] = "1";
inline constexpr char kModelPath[] = "/v2/models/([^/]+)(?:/versions/([^/]+))?.*";
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
inline constexpr int64_t kGreyWeights[] = {19595, 38470, 7471};

inline constexpr Refusal kNoModel{404, "there is no model '{}'; '{}' is served here"};
inline constexpr Refusal kNoVersion{404, "there is no version '{}' of the model; the only one is '{}'"};
inline constexpr Refusal kEncodedBody{415, "the body's encoding is {}; gzip and deflate are known"};
inline constexpr Refusal kNoPath{404, "there is nothing at {}"};
inline constexpr Refusal kNoMethod{405, "{} is not allowed at {}"};
inline constexpr Refusal kTooSlow{408, "the request did not arrive within {} seconds"};
inline constexpr Refusal kTooLarge{413, "the body is larger than {} MB"};
inline constexpr Refusal kNoMemory{503, "there is not enough memory for this request"};
inline constexpr Refusal kDecoding{503, "other pictures were decoded for {} seconds"};
inline constexpr Refusal kNoClasses{400, "this model outputs {}, which have no 'classification'"};
inline constexpr Refusal kNoSettings{400, "this model has nothing to set: it takes no 'setting'"};
inline constexpr Refusal kLogitsModel{400, "this model outputs logits: use /v1/classify"};
inline constexpr Refusal kFeaturesModel{400, "this model outputs features, not classes: use /v1/features"};
inline constexpr Refusal kMembersModel{400, "this model outputs the logits of each member: use infer"};
inline constexpr Refusal kTokensModel{400, "this model outputs the tokens of images: use infer"};
inline constexpr Refusal kNoPicture{400, "the request has no picture: send a picture file as the body, or JSON with 'images'"};
inline constexpr Refusal kWrongImageCount{400, "a request takes 1 to {} images, not {}"};
inline constexpr Refusal kNoJson{400, "the request is not JSON: {}"};
inline constexpr Refusal kNoBodyEncoding{400, "the body is not {}, or not complete"};
inline constexpr Refusal kNoObject{400, "the request must be a JSON object"};
inline constexpr Refusal kUnknownField{400, "the request has a field {}; {} are known"};
inline constexpr Refusal kTooDeep{400, "the request's lists and objects are nested more than {} deep"};
inline constexpr Refusal kTooManyValues{400, "the request has more values than the model can need"};
inline constexpr Refusal kNoField{400, "the request has no '{}'"};
inline constexpr Refusal kWrongField{400, "'{}' must be {}, not {}"};
inline constexpr Refusal kWrongList{400, "'{}' must be a list of {} to {} items"};
inline constexpr Refusal kWrongOutput{400, "the model's only output is '{}'"};
inline constexpr Refusal kWrongOutputs{400, "the model's outputs are '{}', and a request names each once at most"};
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
    {"infer", "outputs", "output", "[]", "an object", FieldType::kObject, 0, 0, 1000, false, false, false, {}},
    {"infer", "parameters", "parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"infer", "id", "", "null", "a text", FieldType::kText, 0, 0, 0, false, false, false, {}},
    {"repository", "ready", "", "false", "true or false", FieldType::kFlag, 0, 0, 0, false, false, false, {}},
    {"parameters", "setting", "", "null", "a text that is not empty", FieldType::kText, 1, 0, 0, false, false, true, {}},
    {"parameters", "binary_data_output", "", "false", "true or false", FieldType::kFlag, 0, 0, 0, false, false, true, {}},
    {"input", "name", "", "null", "'image'", FieldType::kText, 0, 0, 0, true, false, false, {"image"}},
    {"input", "datatype", "", "null", "'FP32' or 'UINT8'", FieldType::kText, 0, 0, 0, true, false, false, {"FP32", "UINT8"}},
    {"input", "shape", "", "null", "a whole number, 0 or more", FieldType::kWhole, 0, 1, 8, true, false, false, {}},
    {"input", "data", "", "null", "an object", FieldType::kAny, 0, 0, 0, false, false, false, {}},
    {"input", "parameters", "input_parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"input_parameters", "binary_data_size", "", "null", "a whole number, 0 or more", FieldType::kWhole, 0, 0, 0, false, false, true, {}},
    {"output", "name", "", "null", "a text", FieldType::kText, 0, 0, 0, true, false, false, {}},
    {"output", "parameters", "output_parameters", "{}", "an object", FieldType::kObject, 0, 0, 0, false, false, false, {}},
    {"output_parameters", "binary_data", "", "null", "true or false", FieldType::kFlag, 0, 0, 0, false, false, true, {}},
    {"output_parameters", "classification", "", "null", "a whole number, 1 or more", FieldType::kWhole, 1, 0, 0, false, false, true, {}},
};

struct NumberOptions { int batch_size = 16, max_waiting = 256, max_body = 16, request_seconds = 10; };
struct NumberOption { const char* name; int NumberOptions::*value; int maximum; const char* help; };
inline constexpr NumberOption kNumberOptions[] = {
    {"--batch-size", &NumberOptions::batch_size, 4096, "Maximum number of images per call, and of pictures per request."},
    {"--max-waiting", &NumberOptions::max_waiting, 1048576, "Maximum number of images in the queue and per tensor; further requests get 503."},
    {"--max-body", &NumberOptions::max_body, 1024, "Maximum size of a request's body in megabytes; larger ones get 413."},
    {"--request-seconds", &NumberOptions::request_seconds, 3600, "Maximum number of seconds for a request to arrive; slower ones get 408."},
};

namespace endpoints {
boost::asio::awaitable<Response> classify(Service&, Exchange&);
boost::asio::awaitable<Response> features(Service&, Exchange&);
boost::asio::awaitable<Response> infer(Service&, Exchange&);
boost::asio::awaitable<Response> model(Service&, Exchange&);
boost::asio::awaitable<Response> model_ready(Service&, Exchange&);
boost::asio::awaitable<Response> repository(Service&, Exchange&);
boost::asio::awaitable<Response> server(Service&, Exchange&);
boost::asio::awaitable<Response> health(Service&, Exchange&);
boost::asio::awaitable<Response> metrics(Service&, Exchange&);
boost::asio::awaitable<Response> openapi(Service&, Exchange&);
}  // namespace endpoints
inline constexpr Route kRoutes[] = {
    {"/v1/classify", true, "classify", endpoints::classify},
    {"/v1/features", true, "features", endpoints::features},
    {"/v2/models/{model}/infer", true, "infer", endpoints::infer},
    {"/v2/models/{model}/versions/1/infer", true, "infer", endpoints::infer},
    {"/v2/models/{model}", false, "model", endpoints::model},
    {"/v2/models/{model}/versions/1", false, "model", endpoints::model},
    {"/v2/models/{model}/ready", false, "model", endpoints::model_ready},
    {"/v2/models/{model}/versions/1/ready", false, "model", endpoints::model_ready},
    {"/v2/repository/index", true, "model", endpoints::repository},
    {"/v2", false, "model", endpoints::server},
    {"/healthz", false, "", endpoints::health},
    {"/v2/health/live", false, "", endpoints::health},
    {"/v2/health/ready", false, "", endpoints::health},
    {"/metrics", false, "", endpoints::metrics},
    {"/openapi.json", false, "", endpoints::openapi},
};

inline constexpr char kOpenApi[] = "{\"openapi\": \"3.1.0\", \"info\": {\"title\": \"vmoe-export\", \"version\": \"1\"}, \"paths\": {\"/v1/classify\": {\"post\": {\"summary\": \"The most probable classes\", \"operationId\": \"v1_classify\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/predictions\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}, \"parameters\": [{\"name\": \"top\", \"in\": \"query\", \"schema\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 1099511627776, \"default\": 5}}, {\"name\": \"setting\", \"in\": \"query\", \"schema\": {\"type\": \"string\", \"minLength\": 1}}], \"requestBody\": {\"content\": {\"image/*\": {\"schema\": {\"type\": \"string\"}}, \"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/pictures_request\"}}}, \"required\": true}}}, \"/v1/features\": {\"post\": {\"summary\": \"The features of pictures\", \"operationId\": \"v1_features\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/features\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}, \"parameters\": [{\"name\": \"top\", \"in\": \"query\", \"schema\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 1099511627776, \"default\": 5}}, {\"name\": \"setting\", \"in\": \"query\", \"schema\": {\"type\": \"string\", \"minLength\": 1}}], \"requestBody\": {\"content\": {\"image/*\": {\"schema\": {\"type\": \"string\"}}, \"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/pictures_request\"}}}, \"required\": true}}}, \"/v2/models/{model}/infer\": {\"post\": {\"summary\": \"The output for a tensor of images\", \"operationId\": \"v2_models_model_infer\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/inferred\"}}, \"application/octet-stream\": {\"schema\": {\"type\": \"string\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}, \"requestBody\": {\"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/infer_request\"}}, \"application/octet-stream\": {\"schema\": {\"type\": \"string\"}}}, \"required\": true}}}, \"/v2/models/{model}/versions/1/infer\": {\"post\": {\"summary\": \"The output for a tensor of images\", \"operationId\": \"v2_models_model_versions_1_infer\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/inferred\"}}, \"application/octet-stream\": {\"schema\": {\"type\": \"string\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}, \"requestBody\": {\"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/infer_request\"}}, \"application/octet-stream\": {\"schema\": {\"type\": \"string\"}}}, \"required\": true}}}, \"/v2/models/{model}\": {\"get\": {\"summary\": \"Input, output and profiles of the model\", \"operationId\": \"v2_models_model\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/model\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/models/{model}/versions/1\": {\"get\": {\"summary\": \"Input, output and profiles of the model\", \"operationId\": \"v2_models_model_versions_1\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/model\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/models/{model}/ready\": {\"get\": {\"summary\": \"Whether the model answers\", \"operationId\": \"v2_models_model_ready\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/model_ready\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/models/{model}/versions/1/ready\": {\"get\": {\"summary\": \"Whether the model answers\", \"operationId\": \"v2_models_model_versions_1_ready\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/model_ready\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/repository/index\": {\"post\": {\"summary\": \"The models that are served\", \"operationId\": \"v2_repository_index\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/stored\"}, {\"type\": \"null\"}]}}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}, \"requestBody\": {\"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/repository_request\"}}}, \"required\": false}}}, \"/v2\": {\"get\": {\"summary\": \"Name and version of the server\", \"operationId\": \"v2\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/server\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/healthz\": {\"get\": {\"summary\": \"The queue, and the setting of elastic requests\", \"operationId\": \"healthz\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/health\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/health/live\": {\"get\": {\"summary\": \"The queue, and the setting of elastic requests\", \"operationId\": \"v2_health_live\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/health\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/v2/health/ready\": {\"get\": {\"summary\": \"The queue, and the setting of elastic requests\", \"operationId\": \"v2_health_ready\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/health\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/metrics\": {\"get\": {\"summary\": \"Counts and times as Prometheus text\", \"operationId\": \"metrics\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"text/plain; version=0.0.4; charset=utf-8\": {\"schema\": {\"type\": \"string\"}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}, \"/openapi.json\": {\"get\": {\"summary\": \"These endpoints, as OpenAPI describes them\", \"operationId\": \"openapi_json\", \"responses\": {\"200\": {\"description\": \"answered\", \"content\": {\"application/json\": {\"schema\": {}}}}, \"default\": {\"description\": \"refused\", \"content\": {\"application/json\": {\"schema\": {\"$ref\": \"#/components/schemas/error\"}}}}}}}}, \"components\": {\"schemas\": {\"pictures_request\": {\"type\": \"object\", \"properties\": {\"images\": {\"type\": \"array\", \"items\": {\"type\": \"string\", \"contentEncoding\": \"base64\"}, \"minItems\": 1, \"maxItems\": 1048576}, \"top\": {\"anyOf\": [{\"type\": \"integer\", \"minimum\": 1, \"maximum\": 1099511627776, \"default\": 5}, {\"type\": \"null\"}]}, \"setting\": {\"anyOf\": [{\"type\": \"string\", \"minLength\": 1}, {\"type\": \"null\"}]}}, \"required\": [\"images\"], \"additionalProperties\": false}, \"infer_request\": {\"type\": \"object\", \"properties\": {\"inputs\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/components/schemas/input_request\"}, \"minItems\": 1, \"maxItems\": 1}, \"outputs\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"$ref\": \"#/components/schemas/output_request\"}, \"minItems\": 0, \"maxItems\": 1000}, {\"type\": \"null\"}]}, \"parameters\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/parameters_request\"}, {\"type\": \"null\"}]}, \"id\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}, \"required\": [\"inputs\"]}, \"repository_request\": {\"type\": \"object\", \"properties\": {\"ready\": {\"anyOf\": [{\"type\": \"boolean\", \"default\": false}, {\"type\": \"null\"}]}}}, \"parameters_request\": {\"type\": \"object\", \"properties\": {\"setting\": {\"anyOf\": [{\"type\": \"string\", \"minLength\": 1}, {\"type\": \"null\"}]}, \"binary_data_output\": {\"anyOf\": [{\"type\": \"boolean\", \"default\": false}, {\"type\": \"null\"}]}}, \"additionalProperties\": false}, \"input_request\": {\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"enum\": [\"image\"]}, \"datatype\": {\"type\": \"string\", \"enum\": [\"FP32\", \"UINT8\"]}, \"shape\": {\"type\": \"array\", \"items\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 1099511627776}, \"minItems\": 1, \"maxItems\": 8}, \"data\": {\"anyOf\": [{}, {\"type\": \"null\"}]}, \"parameters\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/input_parameters_request\"}, {\"type\": \"null\"}]}}, \"required\": [\"name\", \"datatype\", \"shape\"]}, \"input_parameters_request\": {\"type\": \"object\", \"properties\": {\"binary_data_size\": {\"anyOf\": [{\"type\": \"integer\", \"minimum\": 0, \"maximum\": 1099511627776}, {\"type\": \"null\"}]}}, \"additionalProperties\": false}, \"output_request\": {\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, \"parameters\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/output_parameters_request\"}, {\"type\": \"null\"}]}}, \"required\": [\"name\"]}, \"output_parameters_request\": {\"type\": \"object\", \"properties\": {\"binary_data\": {\"anyOf\": [{\"type\": \"boolean\"}, {\"type\": \"null\"}]}, \"classification\": {\"anyOf\": [{\"type\": \"integer\", \"minimum\": 1, \"maximum\": 1099511627776}, {\"type\": \"null\"}]}}, \"additionalProperties\": false}, \"predictions\": {\"type\": \"object\", \"properties\": {\"predictions\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/prediction\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"setting\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"images_of_call\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}, \"waited_ms\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}, \"call_ms\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}}}, \"prediction\": {\"type\": \"object\", \"properties\": {\"class\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"index\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}, \"probability\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}}}, \"features\": {\"type\": \"object\", \"properties\": {\"features\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"setting\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"images_of_call\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}, \"waited_ms\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}, \"call_ms\": {\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"null\"}]}}}, \"inferred\": {\"type\": \"object\", \"properties\": {\"model_name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"model_version\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"outputs\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/tensor\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"parameters\": {\"anyOf\": [{}, {\"type\": \"null\"}]}, \"id\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}}, \"tensor\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"datatype\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"shape\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"data\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"parameters\": {\"anyOf\": [{}, {\"type\": \"null\"}]}}}, \"model\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"versions\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"platform\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"inputs\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/metadata\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"outputs\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#/components/schemas/metadata\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}, \"parameters\": {\"anyOf\": [{}, {\"type\": \"null\"}]}}}, \"metadata\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"datatype\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"shape\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}}}, \"model_ready\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"ready\": {\"anyOf\": [{\"type\": \"boolean\"}, {\"type\": \"null\"}]}}}, \"server\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"version\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"extensions\": {\"anyOf\": [{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}, {\"type\": \"null\"}]}}}, \"stored\": {\"type\": \"object\", \"properties\": {\"name\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"version\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"state\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"reason\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}}, \"health\": {\"type\": \"object\", \"properties\": {\"status\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"live\": {\"anyOf\": [{\"type\": \"boolean\"}, {\"type\": \"null\"}]}, \"ready\": {\"anyOf\": [{\"type\": \"boolean\"}, {\"type\": \"null\"}]}, \"model\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}, \"waiting\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]}, \"level\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}}, \"error\": {\"type\": \"object\", \"properties\": {\"error\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}}}}}";
