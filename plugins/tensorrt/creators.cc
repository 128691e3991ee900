// The two functions that TensorRT calls when it loads the library, and the plugin creators. A creator makes plugins
// from the fields of a node.
#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cuda/limits.h"
#include "tensorrt/loaded_version.h"
#include "tensorrt/log.h"
#include "tensorrt/plugin.h"

namespace vmoe::tensorrt {
namespace {

using ops::OpError;
using ops::Settings;

constexpr std::array<Op, 5> kOps{{
    {ops::kGates, cuda::put_gates},
    {ops::kRoute, cuda::put_route, cuda::route_workspace_bytes},
    {ops::kDispatch, cuda::put_dispatch},
    {ops::kRouteDispatch, cuda::put_route_dispatch, cuda::route_dispatch_workspace_bytes},
    {ops::kCombine, cuda::put_combine},
}};

constexpr char kWanted[] = "; it takes capacity, k and bpr, one INT each";

int32_t read_int32(const nvinfer1::PluginField& field) {
  const std::string name = field.name;
  if (field.type != nvinfer1::PluginFieldType::kINT32 || field.length != 1) {
    throw OpError("field " + name + " must be one INT32 (type 5, length 1), not type " +
                  std::to_string(static_cast<int32_t>(field.type)) + ", length " + std::to_string(field.length));
  }
  if (!field.data) throw OpError("field " + name + " has no data");
  int32_t value = 0;
  std::memcpy(&value, field.data, sizeof(value));
  return value;
}

// Reads the fields of a node. For an op that routes, the fields must be capacity, k and bpr, each with one INT32 value.
// All other ops must have no fields. Throws OpError if a field is missing, repeated or unknown, or if a value is out of
// range.
Settings read_fields(const nvinfer1::PluginFieldCollection* fields, const ops::OpSpec& spec) {
  const int32_t count = fields ? fields->nbFields : 0;
  if (count < 0 || (count > 0 && !fields->fields)) throw OpError("the collection of fields is damaged");
  const std::vector<size_t> needed = ops::needed_settings(spec);
  Settings settings;
  for (int32_t i = 0; i < count; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    if (!field.name) throw OpError("field " + std::to_string(i) + " has no name");
    const auto setting = std::find_if(needed.begin(), needed.end(), [&](size_t index) {
      return std::strcmp(field.name, ops::kSettings[index].name) == 0;
    });
    if (setting == needed.end()) {
      throw OpError(std::string("there is no field ") + field.name + (needed.empty() ? "; it takes none" : kWanted));
    }
    if (settings[*setting]) throw OpError(std::string("field ") + field.name + " is given twice");
    settings[*setting] = read_int32(field);
  }
  for (const size_t setting : needed) {
    if (!settings[setting]) {
      throw OpError(std::string("field ") + ops::kSettings[setting].name + " is missing" + kWanted);
    }
  }
  if (!ops::routes(spec)) return settings;
  ops::check_range("k", settings.known(ops::Setting::kK), 1, static_cast<int64_t>(cuda::kMostChoices));
  settings.check();
  return settings;
}

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const Op& op) : op_(op) {
    for (const size_t setting : ops::needed_settings(op.spec)) {
      fields_.emplace_back(ops::kSettings[setting].name, nullptr, nvinfer1::PluginFieldType::kINT32, 1);
    }
    field_names_.nbFields = static_cast<int32_t>(fields_.size());
    field_names_.fields = fields_.data();
  }
  Creator(const Creator&) = delete;  // fields_ and field_names_ contain pointers to this object's own members
  Creator& operator=(const Creator&) = delete;

  // The phase is ignored, because an engine stores the same fields that were used to build the network.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    char message[512];
    try {
      check_tensorrt_major();
      return std::make_unique<Plugin>(op_, read_fields(fields, op_.spec)).release();
    } catch (const std::exception& error) {
      std::snprintf(message, sizeof(message), "%s \"%.200s\": %s", op_.spec.name, name ? name : "", error.what());
    }
    log_error(message);
    return nullptr;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &field_names_; }
  const char* getPluginName() const noexcept override { return op_.spec.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const Op& op_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_names_;
};

}  // namespace
}  // namespace vmoe::tensorrt

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) noexcept {
  using namespace vmoe::tensorrt;  // NOLINT(google-build-using-namespace)
  static std::array<Creator, kOps.size()> made{Creator(kOps[0]), Creator(kOps[1]), Creator(kOps[2]), Creator(kOps[3]),
                                               Creator(kOps[4])};
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&made[0], &made[1], &made[2], &made[3], &made[4]};
  count = static_cast<int32_t>(made.size());
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  vmoe::tensorrt::set_logger_finder(finder);
}
