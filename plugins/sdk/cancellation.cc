#include "sdk/cancellation.h"

#include "sdk/error.h"
#include "sdk/onnxruntime_library.h"

namespace vmoe::sdk {

void Cancellation::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (const RunOptions* run : running_) {
    // This never fails.
    run->api_.ReleaseStatus(run->api_.RunOptionsSetTerminate(run->options_.get()));
  }
}

void Cancellation::check() const {
  if (cancelled_) fail(VMOE_CANCELLED, "the call was cancelled");
}

RunOptions::RunOptions(const OrtApi& api, Cancellation* cancellation)
    : api_(api), options_(nullptr, api.ReleaseRunOptions), cancellation_(cancellation) {
  const std::string what = "ONNX Runtime refuses the run options";
  OrtRunOptions* options = nullptr;
  vmoe::sdk::check(api, api.CreateRunOptions(&options), what);
  options_.reset(options);
  vmoe::sdk::check(api, api.RunOptionsSetRunLogSeverityLevel(options, onnxruntime_severity()), what);
  if (cancellation_ == nullptr) return;
  const std::lock_guard lock(cancellation_->mutex_);
  cancellation_->check();
  cancellation_->running_.insert(this);
}

RunOptions::~RunOptions() {
  if (cancellation_ == nullptr) return;
  const std::lock_guard lock(cancellation_->mutex_);
  cancellation_->running_.erase(this);
}

}  // namespace vmoe::sdk
