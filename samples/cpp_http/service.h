// One model behind HTTP: routes to replies.
#ifndef VMOE_HTTP_SERVICE_H_
#define VMOE_HTTP_SERVICE_H_

#include <functional>
#include <string>
#include <vmoe/batcher.hpp>

#include "http_server.h"
#include "metrics.h"
#include "options.h"
#include "pictures.h"
#include "requests.h"

class Service {
 public:
  // All must outlive it.
  Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher);

  // The address it serves at: http://HOST:PORT. Throws std::runtime_error where it can't.
  std::string bind();

  // See HttpServer.
  void serve(const std::function<bool()>& stops) { server_.serve(stops); }

 private:
  using Answered = std::function<void(const httplib::Request&, const std::string& body, httplib::Response&)>;

  HttpServer::HandlerWithContentReader posted(const char* what, Answered answered);
  HttpServer::Handler asked(const char* what, Answered answered);
  void reply(const char* what, const Answered& answered, const httplib::Request& request, const std::string& body,
             httplib::Response& response);
  void classify(const httplib::Request& request, const std::string& body, httplib::Response& response);
  void infer(const httplib::Request& request, const std::string& body, httplib::Response& response);
  vmoe::Answer answer(const httplib::Request& request, const ImageBatch& batch, const std::string& setting);
  Json predictions(const vmoe::Answer& answer, int64_t top) const;
  Json model() const;
  Json health() const;
  void check_name(const httplib::Request& request) const;

  const Options& options_;
  const vmoe::Engine& engine_;
  vmoe::Batcher& batcher_;
  Metrics metrics_;
  PictureReader pictures_;
  HttpServer server_;
};

#endif  // VMOE_HTTP_SERVICE_H_
