// An HTTP server for clients that are slow, many, or gone: every request has a deadline, connections are limited, and
// what was asked before it stops is answered. httplib does the protocol of a connection.
#ifndef VMOE_HTTP_HTTP_SERVER_H_
#define VMOE_HTTP_HTTP_SERVER_H_

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "connections.h"

struct HttpLimits {
  size_t connections = 128;              // at once
  std::chrono::seconds request{10};      // for a request to arrive, and then for its answer to be taken
  size_t most_bytes = size_t{16} << 20;  // of a body
};

class HttpServer : private httplib::Server {
 public:
  using httplib::Server::Handler;
  using httplib::Server::HandlerWithContentReader;

  // error_body: the body of a refusal with this sentence.
  // refused: hears of every refusal that no handler made.
  HttpServer(const HttpLimits& limits, std::function<std::string(const std::string&)> error_body,
             std::function<void(int)> refused);

  // Routes: `:name` in a path stands for one part of it. Only requests of post() may have a body.
  void get(const std::string& path, Handler handler);
  void post(const std::string& path, HandlerWithContentReader handler);

  // What it listens at, HOST:PORT; port 0 takes a free one. Throws std::runtime_error where it can't.
  std::string bind(const std::string& host, int port);

  // Serves until stops(), which it asks often. Returns when everything that had arrived by then is answered. Throws
  // std::runtime_error where no client can be taken any more.
  void serve(const std::function<bool()>& stops);

  // Reads the whole body of a request; false where it can't be: it is too large, or doesn't come. Then `response` is
  // the refusal.
  bool read_body(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader,
                 std::string& body) const;

  void refuse(httplib::Response& response, int status, const std::string& sentence) const;

 private:
  bool take_client(LimitedThreads& threads, GentleCloser& closer) const;
  void serve_connection(socket_t socket);
  bool serve_request(DeadlineStream& stream);
  bool next_request(const DeadlineStream& stream) const;
  HandlerResponse admit(const httplib::Request& request, httplib::Response& response) const;
  void explain(httplib::Response& response) const;
  void finish(httplib::Response& response) const;
  void refuse_raw(socket_t socket, const char* status, const std::string& sentence) const;
  std::string late_sentence() const;

  const HttpLimits limits_;
  const std::function<std::string(const std::string&)> error_body_;
  const std::function<void(int)> refused_;
  std::vector<std::pair<std::string, std::string>> routes_;  // a path, and its methods as `Allow` names them
  std::atomic<bool> stopping_{false};
};

#endif  // VMOE_HTTP_HTTP_SERVER_H_
