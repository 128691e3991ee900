// The library's two functions: TensorRT calls them when it loads the library.
#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>

#include "tensorrt/log.h"
#include "tensorrt/op.h"
#include "tensorrt/plugin.h"
#include "tensorrt/settings.h"

namespace vmoe::tensorrt {
namespace {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const OpSpec& op) : op_(op) {
    for (size_t i = 0; i < Settings::kCount; ++i) {
      fields_[i] = nvinfer1::PluginField(Settings::kNames[i], nullptr, nvinfer1::PluginFieldType::kINT32, 1);
    }
    field_names_.nbFields = op.routes() ? static_cast<int32_t>(Settings::kCount) : 0;
    field_names_.fields = fields_.data();
  }
  Creator(const Creator&) = delete;  // it points into itself
  Creator& operator=(const Creator&) = delete;

  // The phase makes no difference: an engine stores the same fields that a network is built with.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    char sentence[512];
    try {
      return std::make_unique<Plugin>(op_, ReadSettings(fields, op_.routes())).release();
    } catch (const std::exception& error) {
      std::snprintf(sentence, sizeof(sentence), "%s \"%.200s\": %s", op_.name, name ? name : "", error.what());
    } catch (...) {
      std::snprintf(sentence, sizeof(sentence), "%s: unknown error", op_.name);
    }
    LogError(sentence);
    return nullptr;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &field_names_; }
  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const OpSpec& op_;
  std::array<nvinfer1::PluginField, Settings::kCount> fields_;
  nvinfer1::PluginFieldCollection field_names_;
};

}  // namespace
}  // namespace vmoe::tensorrt

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) noexcept {
  using namespace vmoe::tensorrt;  // NOLINT(google-build-using-namespace)
  static Creator route(kRouteOp);
  static Creator dispatch(kDispatchOp);
  static Creator route_dispatch(kRouteDispatchOp);
  static Creator combine(kCombineOp);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&route, &dispatch, &route_dispatch, &combine};
  count = static_cast<int32_t>(sizeof(creators) / sizeof(*creators));
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  vmoe::tensorrt::SetLoggerFinder(finder);
}
