// Ends calls that are running, from any thread.
#pragma once

#include <onnxruntime_c_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

namespace vmoe::sdk {

class RunOptions;

// Serves any number of calls.
class Cancellation {
 public:
  // Ends the calls that run with it, between two ops, and those to come.
  void cancel();

  // Throws VMOE_CANCELLED if it is cancelled.
  void check() const;

 private:
  friend class RunOptions;

  std::mutex mutex_;  // of running_
  std::atomic<bool> cancelled_{false};
  std::set<const RunOptions*> running_;
};

// Options of one run of ONNX Runtime, which a cancellation ends during their life.
class RunOptions {
 public:
  // cancellation: null for a run that nobody ends; outlives the options.
  //
  // Throws VMOE_CANCELLED if it is cancelled.
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
