// A fake TensorRT that has only a plugin registry and a logger. The memory layout of its objects is determined by the
// TensorRT headers with which it is built.
//
// FAKE_MAJOR is the version that it reports. The environment variable FAKE_TENSORRT makes it misbehave: with "refuses",
// it refuses every creator, and with "no_registry", it returns no registry.
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt_fake.h"

#ifndef FAKE_MAJOR
#define FAKE_MAJOR NV_TENSORRT_MAJOR
#endif

namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;

bool misbehaves(const char* how) {
  const char* wanted = std::getenv("FAKE_TENSORRT");
  return wanted && std::strcmp(wanted, how) == 0;
}

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  void* loadLibrary(const char*) noexcept override { return nullptr; }
  void deregisterLibrary(void*) noexcept override {}

  bool registerCreator(IPluginCreatorInterface& creator, const char* plugin_namespace) noexcept override {
    if (misbehaves("refuses")) return false;
    auto& one = static_cast<IPluginCreatorV3One&>(creator);
    if (getCreator(one.getPluginName(), one.getPluginVersion(), plugin_namespace)) return false;
    names_ += (names_.empty() ? "" : " ") + std::string(plugin_namespace) + "::" + one.getPluginName() +
              "::" + one.getPluginVersion();
    creators_.push_back(&creator);
    return true;
  }
  IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override {
    *count = static_cast<int32_t>(creators_.size());
    return creators_.data();
  }
  IPluginCreatorInterface* getCreator(const char* name, const char*, const char*) noexcept override {
    for (IPluginCreatorInterface* creator : creators_) {
      if (std::strcmp(static_cast<IPluginCreatorV3One*>(creator)->getPluginName(), name) == 0) return creator;
    }
    return nullptr;
  }
  bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return false; }
  nvinfer1::IPluginResource* acquirePluginResource(const char*, nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  int32_t releasePluginResource(const char*) noexcept override { return 0; }

  // Only some versions of TensorRT declare these functions, as virtual functions. With such a version, these functions
  // override TensorRT's. With any other version, they are additional members.
  virtual bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept { return false; }
  virtual nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept { return nullptr; }
  virtual nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept { return nullptr; }
  virtual bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept { return false; }
  virtual IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept {
    return getAllCreators(count);
  }

  const std::string& names() const { return names_; }

 private:
  std::string names_;
  std::vector<IPluginCreatorInterface*> creators_;
};

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    text_ += (severity == Severity::kERROR ? "error: " : "other: ") + std::string(message) + "\n";
  }
  std::string take() { return std::exchange(text_, ""); }

 private:
  std::string text_;
};

class Finder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return &logger; }
  Logger logger;
};

Registry& the_registry() {
  static Registry registry;
  return registry;
}

Finder& the_finder() {
  static Finder finder;
  return finder;
}

}  // namespace

extern "C" {

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  return misbehaves("no_registry") ? nullptr : &the_registry();
}

int32_t getInferLibMajorVersion() noexcept { return FAKE_MAJOR; }

const char* fakeCreators() noexcept { return the_registry().names().c_str(); }

nvinfer1::ILoggerFinder* fakeLoggerFinder() noexcept { return &the_finder(); }

const char* fakeMessages() noexcept {
  static std::string text;
  text = the_finder().logger.take();
  return text.c_str();
}
}
