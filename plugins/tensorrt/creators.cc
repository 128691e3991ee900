// The library's two functions: TensorRT calls them when it loads the library.
#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>

#include "ops/routing_settings.h"
#include "tensorrt/fields.h"
#include "tensorrt/log.h"
#include "tensorrt/op.h"
#include "tensorrt/plugin.h"

namespace vmoe::tensorrt {
namespace {

using ops::RoutingSettings;

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const Op& op) : op_(op) {
    for (size_t i = 0; i < RoutingSettings::kCount; ++i) {
      fields_[i] = nvinfer1::PluginField(RoutingSettings::kNames[i], nullptr, nvinfer1::PluginFieldType::kINT32, 1);
    }
    field_names_.nbFields = op.spec.routes() ? static_cast<int32_t>(RoutingSettings::kCount) : 0;
    field_names_.fields = fields_.data();
  }
  Creator(const Creator&) = delete;  // it points into itself
  Creator& operator=(const Creator&) = delete;

  // The phase makes no difference: an engine stores the same fields that a network is built with.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    char sentence[512];
    try {
      return std::make_unique<Plugin>(op_, read_fields(fields, op_.spec)).release();
    } catch (const std::exception& error) {
      std::snprintf(sentence, sizeof(sentence), "%s \"%.200s\": %s", op_.spec.name, name ? name : "", error.what());
    } catch (...) {
      std::snprintf(sentence, sizeof(sentence), "%s: unknown error", op_.spec.name);
    }
    log_error(sentence);
    return nullptr;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &field_names_; }
  const char* getPluginName() const noexcept override { return op_.spec.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const Op& op_;
  std::array<nvinfer1::PluginField, RoutingSettings::kCount> fields_;
  nvinfer1::PluginFieldCollection field_names_;
};

}  // namespace
}  // namespace vmoe::tensorrt

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) noexcept {
  using namespace vmoe::tensorrt;  // NOLINT(google-build-using-namespace)
  static Creator gates(kGatesOp);
  static Creator route(kRouteOp);
  static Creator dispatch(kDispatchOp);
  static Creator route_dispatch(kRouteDispatchOp);
  static Creator combine(kCombineOp);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&gates, &route, &dispatch, &route_dispatch, &combine};
  count = static_cast<int32_t>(sizeof(creators) / sizeof(*creators));
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  vmoe::tensorrt::set_logger_finder(finder);
}
