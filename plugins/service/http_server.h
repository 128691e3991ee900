// An HTTP server on Boost.Beast for clients that are slow, numerous or disconnected: every request has a deadline,
// connections are limited, and requests that have arrived before it stops are answered.
#pragma once

#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "prometheus_text.h"
#include "requests.h"
#include "workers.h"

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

using Request = http::request<http::string_body>;
using HasGone = std::function<bool()>;

struct Response : http::response<http::string_body> {
  using http::response<http::string_body>::message;
};

// A request that waits for its response.
struct Exchange {
  Request& request;
  HasGone has_gone;  // whether nobody waits for the response any more
};

struct HttpLimits {
  size_t connections = 128;          // at once
  size_t body = 0;                   // bytes
  std::chrono::seconds request{10};  // for a request to arrive, and then for the client to read the answer
};

// The parts of a request's address before and after the `?`.
std::string_view path_of(const Request& request);
std::string_view query_of(const Request& request);

Response text_response(std::string body, const char* content_type, int status = 200);

class HttpServer {
 public:
  // metrics: counts the replies by the label of the route, or "server" if the request matched none.
  HttpServer(const HttpLimits& limits, Metrics& metrics);

  // Serves HTTPS with PEM files. Throws std::runtime_error if they can't be used.
  void use_tls(const std::string& certificate, const std::string& key);

  // Listens, and returns http://HOST:PORT; port 0 takes a free one. Throws std::runtime_error if it can't.
  // From now on SIGTERM, SIGINT and SIGHUP stop serve(), even before it is called.
  std::string bind(const std::string& host, uint16_t port);

  // Serves until a signal arrives and all requests that have arrived by then are answered.
  void serve(Service& service);

 private:
  class DeadlineSocket;

  void accept();
  void stop();
  void start(tcp::socket socket);
  void serve_connection(tcp::socket& socket, bool refused);
  template <typename Stream>
  void serve_requests(Stream& stream, DeadlineSocket& socket, bool refused);
  template <typename Stream>
  bool serve_request(Stream& stream, DeadlineSocket& socket, boost::beast::flat_buffer& buffer);
  // Reads a request. Returns a response to refuse it.
  template <typename Stream, typename Parser>
  std::optional<Response> receive(Stream& stream, boost::beast::flat_buffer& buffer, Parser& parser) const;
  std::optional<Response> check_head(const Request& request) const;
  Response answer(Request& request, const DeadlineSocket& socket) const;

  const HttpLimits limits_;
  Metrics& metrics_;
  Service* service_ = nullptr;
  asio::io_context io_{1};
  asio::signal_set signals_{io_};
  tcp::acceptor acceptor_{io_};
  std::optional<asio::ssl::context> tls_;
  std::atomic<size_t> open_{0};  // connections
  std::atomic<bool> stopping_{false};
  Workers threads_;  // one for each connection
};
