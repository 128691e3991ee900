// A loaded bundle that can run at any capacity. The C API's vmoe_engine is derived from it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sdk/bundle.h"
#include "sdk/cancellation.h"
#include "sdk/layer_routing.h"
#include "sdk/session.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// An output that a call requests, and the memory in which the caller wants its values.
struct OutputRoom {
  std::string name;
  float* data;
  size_t size;  // number of floats that `data` can hold
};

class Engine {
 public:
  // Loads a bundle: see vmoe_engine_load. Throws VMOE_ARGUMENT_ERROR if called inside a log callback. Throws
  // VMOE_BUNDLE_ERROR, VMOE_ROUTING_ERROR or VMOE_RUNTIME_ERROR if the load fails.
  Engine(const std::string& path, const vmoe_load_options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const std::string& runtime() const { return runtime_; }
  bool uses_op_library() const { return session_->uses_op_library(); }
  int threads() const { return threads_; }

  // Returns the profile that a call with this setting uses. For a dense ViT or Soft MoE, returns std::nullopt if the
  // call merges no tokens. Throws VMOE_ARGUMENT_ERROR if `setting` sets unknown fields, and VMOE_ROUTING_ERROR if the
  // model does not support the setting.
  std::optional<Profile> setting(const vmoe_setting& setting) const;

  // See vmoe_engine_warm_up, vmoe_engine_run and vmoe_engine_routing.
  void warm_up(int64_t count, const vmoe_setting& setting) const;
  // `cancellation` is null if the call cannot be cancelled.
  void run(const vmoe_images& images, const vmoe_setting& setting, Cancellation* cancellation,
           const std::vector<OutputRoom>& outputs) const;
  std::vector<LayerRouting> routing(const vmoe_images& images, const vmoe_setting& setting) const;

 private:
  void load(const std::string& path, const vmoe_load_options& options);
  std::optional<Profile> named_profile(const char* name) const;
  bool load_sessions(const Bundle& bundle, const vmoe_load_options& options);
  std::vector<OutputTensor> run_graph(const vmoe_images& images, const std::optional<Profile>& profile,
                                      const std::vector<std::string>& outputs, Cancellation* cancellation) const;
  void check_process() const;
  // Returns whether the graph that runs calls with this profile can merge tokens. With the op library, every graph can
  // merge tokens. With standard ops, only the merging graph can, and that graph runs only calls that merge tokens.
  bool merges(const std::optional<Profile>& profile) const {
    return uses_op_library() || (profile && profile->values.merge > 0);
  }

  Manifest manifest_;
  pid_t process_;  // the process that loaded the bundle
  int threads_;
  std::optional<Profile> profile_;  // the profile for calls that pass no setting
  std::shared_ptr<Session> session_;
  std::shared_ptr<Session> merging_session_;  // null if the op library is used or the bundle has no merging graph
  std::string runtime_;
};

}  // namespace vmoe::sdk
