// One model behind HTTP: routes to replies.
#ifndef VMOE_SERVICE_SERVICE_H_
#define VMOE_SERVICE_SERVICE_H_

#include <functional>
#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "http_server.h"
#include "metrics.h"
#include "options.h"
#include "requests.h"

class Service {
 public:
  // Adds the routes to the server. All must outlive it.
  Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics,
          HttpServer& server);

 private:
  using HasGone = std::function<bool()>;

  Response of_pictures(Request& request, vmoe_output output, const HasGone& has_gone);
  Response infer(const Request& request, const HasGone& has_gone);
  ImageBatch decode(const std::vector<std::string>& pictures, const HasGone& has_gone);
  vmoe::Answer answer(const ImageBatch& batch, const std::string& setting, const HasGone& has_gone);
  Json model() const;
  Json health() const;

  const Options& options_;
  const vmoe::Engine& engine_;
  vmoe::Batcher& batcher_;
  // Few threads, as what they read may take much memory; infer waits for no picture, and a small one for no large one.
  asio::thread_pool tensors_, pictures_, large_pictures_{1};
};

#endif  // VMOE_SERVICE_SERVICE_H_
