// A loaded bundle that answers at any capacity; what the C API hands out.
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

// An output that a call asks for, and the caller's memory for it.
struct OutputRoom {
  std::string name;
  float* data;
  size_t size;  // floats that it has room for
};

class Engine {
 public:
  // See vmoe_engine_load. Throws VMOE_BUNDLE_ERROR, VMOE_ROUTING_ERROR or VMOE_RUNTIME_ERROR.
  Engine(const std::string& path, const vmoe_load_options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const std::string& runtime() const { return runtime_; }
  bool uses_op_library() const { return session_->uses_op_library(); }
  int threads() const { return threads_; }

  // The profile that a call with this setting runs with; none for a dense ViT and Soft MoE. Throws VMOE_ROUTING_ERROR.
  std::optional<Profile> setting(const vmoe_setting& setting) const;

  // See vmoe_engine_warm_up, vmoe_engine_run and vmoe_engine_routing.
  void warm_up(int64_t count, const vmoe_setting& setting) const;
  // cancellation: null for a call that nobody ends.
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
  // Whether a call's graph is one that can merge tokens: on standard ops, only if it shall.
  bool merges(const std::optional<Profile>& profile) const {
    return uses_op_library() || (profile && profile->values.merge > 0);
  }

  Manifest manifest_;
  pid_t process_;  // that loaded it
  int threads_;
  std::optional<Profile> profile_;  // for calls that name none
  std::shared_ptr<Session> session_;
  std::shared_ptr<Session> merging_session_;  // on standard ops, where the bundle has its graph
  std::string runtime_;
};

}  // namespace vmoe::sdk
