// An HTTP server for clients that are slow, many, or gone: every request has a deadline, connections are limited, and
// what was asked before it stops is answered. httplib does the protocol.
#ifndef VMOE_HTTP_HTTP_SERVER_H_
#define VMOE_HTTP_HTTP_SERVER_H_

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

struct HttpLimits {
  size_t connections = 128;              // at once
  std::chrono::seconds request{10};      // for a request to arrive, and then for its answer to be taken
  size_t most_bytes = size_t{16} << 20;  // of a body
};

class HttpServer : public httplib::Server {
 public:
  // error_body: the body of a refusal with this sentence.
  // refused: hears of every refusal that no handler made.
  HttpServer(const HttpLimits& limits, std::function<std::string(const std::string&)> error_body,
             std::function<void(int)> refused);

  // The port it listens at; port 0 takes a free one. Throws std::runtime_error where it can't.
  int bind(const std::string& host, int port);

  // Reads the whole body of a request; false where it can't be: it is too large, or doesn't come. Then `response` is
  // the refusal.
  bool read_body(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader,
                 std::string& body) const;

  void refuse(httplib::Response& response, int status, const std::string& sentence) const;

  // Takes no more connections and no more requests of those that are there; listen_after_bind returns when the last
  // answer was given. To be called from any thread, but no signal handler.
  void stop_serving();

 private:
  bool process_and_close_socket(socket_t socket) override;
  void serve_connection(socket_t socket);
  void refuse_raw(socket_t socket, const char* status, const std::string& sentence) const;
  std::string late_sentence() const;
  void explain(const httplib::Request& request, httplib::Response& response) const;

  const HttpLimits limits_;
  const std::function<std::string(const std::string&)> error_body_;
  const std::function<void(int)> refused_;
  std::atomic<bool> stopping_{false};
};

#endif  // VMOE_HTTP_HTTP_SERVER_H_
