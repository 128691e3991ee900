#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

#include "tensorrt/loaded_version.h"

namespace vmoe::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// Passes a line to TensorRT's logger. Returns false if there is no logger, or if it throws an exception.
bool give_to_logger(const char* line) noexcept {
  try {
    nvinfer1::ILoggerFinder* finder = logger_finder;
    nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr;
    if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, line);
    return logger != nullptr;
  } catch (...) {
    return false;
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  logger_finder = loaded_by_known_major(finder) ? finder : nullptr;
}

void log_error(const char* message) noexcept {
  char line[1024];
  std::snprintf(line, sizeof(line), "vmoe: %s", message);
  if (!give_to_logger(line)) std::fprintf(stderr, "%s\n", line);
}

}  // namespace vmoe::tensorrt
