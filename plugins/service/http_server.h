// An HTTP server on Boost.Beast. It copes with clients that are slow or numerous, or that disconnect. Every request has
// a deadline, and the number of connections is limited. All requests that arrive before the server stops are answered.
#pragma once

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "messages.h"
#include "prometheus_text.h"
#include "workers.h"

using asio::ip::tcp;

struct HttpLimits {
  size_t connections = 128;          // at once
  size_t body = 0;                   // bytes
  std::chrono::seconds request{10};  // time for a request to arrive; the client gets the same time to read the answer
};

class HttpServer {
 public:
  // metrics: counts each reply under the endpoint's label, or under "server" if the server itself refused the request.
  HttpServer(const HttpLimits& limits, Metrics& metrics);

  // Makes the server use HTTPS instead of HTTP. The certificate and the key are read from PEM files. Throws
  // std::runtime_error if the files can't be used, or if the system can't start threads for handshakes.
  void use_tls(const std::string& certificate, const std::string& key);

  // Starts to listen, and returns the URL, which is http://HOST:PORT or https://HOST:PORT. If `port` is 0, the system
  // chooses a free port. Throws std::runtime_error if the server can't listen. From this call on, the signals SIGTERM,
  // SIGINT and SIGHUP stop serve(), even if they arrive before serve() is called. SIGHUP has no effect if the process
  // ignores it.
  std::string bind(const std::string& host, uint16_t port);

  // Serves requests on this thread until a signal arrives. Returns after all requests that arrived before the signal
  // have been answered.
  void serve(const Routes& routes);

 private:
  using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;
  class Connection;

  asio::awaitable<void> accept();
  boost::system::error_code accept_queued(size_t most);
  void stop();
  void start(Socket socket);

  // These coroutines serve one connection. The first coroutine calls the others. Stream is either the socket type or
  // the type of a TLS stream over the socket.
  asio::awaitable<void> serve_connection(std::shared_ptr<Connection> connection, bool refused);
  asio::awaitable<boost::system::error_code> shake_hands(asio::ssl::stream<Socket&>& secure);
  template <typename Stream>
  asio::awaitable<void> serve_or_refuse(Stream& stream, Connection& connection, bool refused);
  // Waits for the first bytes of a request. Returns false if no further request will come.
  template <typename Stream>
  asio::awaitable<bool> wait_for_request(Stream& stream, Connection& connection);
  // Serves one request. Returns whether the connection may serve another request.
  template <typename Stream>
  asio::awaitable<bool> serve_request(Stream& stream, Connection& connection);
  // Reads a request. Returns a response if the request is refused, and otherwise none. Also returns none if the client
  // disconnects before the whole request has arrived.
  template <typename Stream, typename Parser>
  asio::awaitable<std::optional<Response>> receive(Stream& stream, Connection& connection, Parser& parser);
  std::optional<Response> check_head(const Request& request) const;
  asio::awaitable<Response> answer(Request& request, Connection& connection);

  const HttpLimits limits_;
  Metrics& metrics_;
  const Routes* routes_ = nullptr;
  std::optional<asio::ssl::context> tls_;
  std::optional<Workers> handshakes_;  // threads for TLS handshakes, each of which takes a millisecond or more
  std::unordered_set<Connection*> connections_;
  // One thread runs all connections, without locks. This thread only moves and encrypts bytes. Slow work runs on the
  // threads of Service. If several threads ran the connections, they would have to pass each request from one to
  // another.
  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::signal_set signals_{io_};
  bool stopping_ = false;
};
