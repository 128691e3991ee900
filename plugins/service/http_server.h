// An HTTP server on Boost.Beast for slow, numerous and disconnecting clients. Every request has a deadline, the number
// of connections is limited, and all requests that arrive before the server stops are answered.
#pragma once

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl/context.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "messages.h"
#include "prometheus_text.h"

using asio::ip::tcp;

struct HttpLimits {
  size_t connections = 128;          // at once
  size_t body = 0;                   // bytes
  std::chrono::seconds request{10};  // time for a request to arrive, and again for the client to read the answer
};

class HttpServer {
 public:
  // metrics: counts the replies by the label of the endpoint, or as "server" if the server refused the request.
  HttpServer(const HttpLimits& limits, Metrics& metrics);

  // Serves HTTPS with a certificate and a key from PEM files. Throws std::runtime_error if the files can't be used.
  void use_tls(const std::string& certificate, const std::string& key);

  // Listens, and returns http://HOST:PORT; port 0 selects a free port. Throws std::runtime_error if it can't listen.
  // From now on, SIGTERM, SIGINT and SIGHUP stop serve(), even if they arrive before serve() is called.
  std::string bind(const std::string& host, uint16_t port);

  // Serves on this thread until a signal arrives, and then until all requests that arrived before the signal are
  // answered.
  void serve(const Routes& routes);

 private:
  using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;
  class Connection;

  asio::awaitable<void> accept();
  void stop();
  void start(Socket socket);

  // These coroutines serve one connection; the first one calls the others. Stream is the connection's socket, or TLS
  // over that socket.
  asio::awaitable<void> serve_connection(std::shared_ptr<Connection> connection, bool refused);
  template <typename Stream>
  asio::awaitable<void> serve_or_refuse(Stream& stream, Connection& connection, bool refused);
  // Waits for the first bytes of a request. Returns false if no request will come.
  template <typename Stream>
  asio::awaitable<bool> wait_for_request(Stream& stream, Connection& connection);
  // Serves one request. Returns whether the connection may serve another request.
  template <typename Stream>
  asio::awaitable<bool> serve_request(Stream& stream, Connection& connection);
  // Reads a request. Returns a response if the request is refused, and otherwise none.
  template <typename Stream, typename Parser>
  asio::awaitable<std::optional<Response>> receive(Stream& stream, Connection& connection, Parser& parser);
  std::optional<Response> check_head(const Request& request) const;
  asio::awaitable<Response> answer(Request& request, Connection& connection);

  const HttpLimits limits_;
  Metrics& metrics_;
  const Routes* routes_ = nullptr;
  std::optional<asio::ssl::context> tls_;
  std::unordered_set<Connection*> connections_;
  // One thread runs all connections, without locks. It only moves bytes; slow work runs on the threads of the service.
  // If several threads ran connections, each request would be passed from one thread to another.
  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::signal_set signals_{io_};
  bool stopping_ = false;
};
