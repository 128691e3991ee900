// One model behind HTTP: routes to replies.
#ifndef VMOE_SERVICE_SERVICE_H_
#define VMOE_SERVICE_SERVICE_H_

#include <functional>
#include <string>
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

  Response classify(Request& request, const HasGone& has_gone);
  Response infer(const Request& request, const HasGone& has_gone);
  vmoe::Answer answer(const ImageBatch& batch, const std::string& setting, const HasGone& has_gone);
  Json model() const;
  Json health() const;

  const Options& options_;
  const vmoe::Engine& engine_;
  vmoe::Batcher& batcher_;
  asio::thread_pool readers_;  // of JSON and pictures: few, as they may take much memory
};

#endif  // VMOE_SERVICE_SERVICE_H_
