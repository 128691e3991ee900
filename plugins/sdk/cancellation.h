#pragma once

#include <onnxruntime_c_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

namespace vmoe::sdk {

class RunOptions;

// Lets one thread end the calls of other threads. One object can be used by any number of calls.
class Cancellation {
 public:
  // Cancels permanently. Running calls that use this object end before their next op, and later calls that use it fail.
  void cancel();

  // Throws VMOE_CANCELLED if cancel() has been called.
  void check() const;

 private:
  friend class RunOptions;

  std::mutex mutex_;  // guards running_
  std::atomic<bool> cancelled_{false};
  std::set<const RunOptions*> running_;
};

// The options for one ONNX Runtime run. While this object exists, `cancellation` can end the run.
class RunOptions {
 public:
  // cancellation: must outlive this object. Null if the run cannot be cancelled.
  //
  // Throws VMOE_CANCELLED if `cancellation` has already been cancelled.
  RunOptions(const OrtApi& api, Cancellation* cancellation);
  ~RunOptions();
  RunOptions(const RunOptions&) = delete;
  RunOptions& operator=(const RunOptions&) = delete;

  const OrtRunOptions* get() const { return options_.get(); }

 private:
  friend class Cancellation;

  const OrtApi& api_;
  std::unique_ptr<OrtRunOptions, void(ORT_API_CALL*)(OrtRunOptions*)> options_;
  Cancellation* cancellation_;
};

}  // namespace vmoe::sdk
