#include "http_server.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_suffix.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <cctype>
#include <charconv>
#include <csignal>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "content_encoding.h"
#include "requests.h"

namespace {

using boost::beast::flat_buffer;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr auto kIdle = std::chrono::seconds(60);        // longest time that a connection may be idle
constexpr auto kLinger = std::chrono::seconds(2);       // how long a client may take to stop sending and read its reply
constexpr auto kPause = std::chrono::milliseconds(50);  // delay before the next accept if an accept failed
constexpr size_t kMostAccepted = 64;                    // maximum number of clients accepted before others are served
constexpr size_t kHandshakeThreads = 2;                 // threads for TLS handshakes
constexpr size_t kMostRefused = 256;                    // at most this many clients above the limit get a 503
constexpr uint32_t kMostHead = 16384;                   // maximum bytes of a request's first line and headers
constexpr size_t kMostBuffered = 65536;                 // maximum bytes buffered per connection, without the body
constexpr size_t kFirstRead = 1024;                     // bytes of the first read, and of an idle connection's buffer
constexpr size_t kRead = 16384;                         // maximum bytes of each later read: the size of a TLS record
constexpr size_t kSmallBody = 16384;                    // maximum bytes of a response body that is sent with the head
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
#if defined(POLLRDHUP)
constexpr short kPeerClosed = POLLRDHUP;
#else
constexpr short kPeerClosed = POLLHUP;
#endif

template <typename... Facts>
Response refusal(const Refusal& row, const Facts&... facts) {
  return error_response(RequestError(row, facts...));
}

Response parse_error(const error_code& error, size_t most_body) {
  if (error == http::error::body_limit) return refusal(kTooLarge, most_body >> 20);
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return refusal(kLongHead, kMostHead);
  return refusal(kNoHttp, error.message());
}

// Normalizes a request's target. Removes a scheme and host, which are present in requests to proxies (RFC 9112, 3.2.2).
// Also decodes percent-encoded characters that need no encoding (RFC 3986, 6.2.2.2).
std::string normalized(std::string_view target) {
  if (const size_t host = target.find("://") + 3; boost::beast::iequals(target.substr(0, host), "http://") ||
                                                  boost::beast::iequals(target.substr(0, host), "https://")) {
    target.remove_prefix(std::min(target.find_first_of("/?", host), target.size()));
  }
  std::string found(target);
  for (size_t i = 0; (i = found.find('%', i)) != std::string::npos; ++i) {
    uint8_t byte = 0;
    const std::string digits = found.substr(i + 1, 2);
    if (std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16).ptr != digits.data() + 2) continue;
    if (std::isalnum(byte) != 0 || std::string_view("-._~").find(byte) != std::string_view::npos) {
      found.replace(i, 3, 1, static_cast<char>(byte));
    }
  }
  return found;
}

std::string_view text_of(const flat_buffer& buffer) {
  return {static_cast<const char*>(buffer.data().data()), buffer.size()};
}

// Returns the status line and the headers of a response.
std::string head_of(const Response& response) {
  http::response_serializer<http::string_body> serializer(response);
  serializer.split(true);
  std::string head;
  error_code error;
  serializer.next(error,
                  [&head](error_code&, const auto& buffers) { head = boost::beast::buffers_to_string(buffers); });
  return head;
}

}  // namespace

// A client's connection. Only the server's thread may use it, except that any thread may call has_gone().
class HttpServer::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer& server, Socket accepted)
      : socket(std::move(accepted)), server_(server), timer_(socket.get_executor(), Clock::time_point::max()) {
    server_.connections_.insert(this);
  }
  ~Connection() { server_.connections_.erase(this); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Sets one deadline for all operations that follow. Therefore, a client gains no time by sending one byte per second.
  void expire_at(Clock::time_point end) {
    end_ = end;
    if (end < timer_.expiry()) watch();  // otherwise, the timer ends before `end`, and is then set to `end`
  }

  bool is_late() const { return Clock::now() >= end_; }

  // Returns the completion token for an operation. The operation is cancelled when the deadline is reached.
  auto by_deadline() { return asio::bind_cancellation_slot(cancel_.slot(), asio::as_tuple(asio::use_awaitable)); }

  // Reads more bytes into the buffer.
  template <typename Stream>
  asio::awaitable<error_code> read(Stream& stream) {
    const size_t most = std::min(kRead, kMostBuffered - buffer.size());
    if (most == 0) co_return http::error::buffer_overflow;
    if (is_late()) co_return asio::error::timed_out;
    const auto [error, size] = co_await stream.async_read_some(buffer.prepare(most), by_deadline());
    buffer.commit(size);
    if (error == asio::error::operation_aborted) co_return asio::error::timed_out;
    co_return error;
  }

  // Reads until `parser` has a request's head. If `all` is true, reads until `parser` has the whole request.
  template <typename Stream, typename Parser>
  asio::awaitable<error_code> parse(Stream& stream, Parser& parser, bool all) {
    parser.eager(all);
    error_code error;
    while (all ? !parser.is_done() : !parser.is_header_done()) {
      if (buffer.size() > 0) {
        buffer.consume(parser.put(buffer.data(), error));
        if (!error) continue;
        if (error != http::error::need_more) co_return error;
      }
      error = co_await read(stream);
      if (error) co_return error;
    }
    co_return error;
  }

  template <typename Stream>
  asio::awaitable<error_code> write(Stream& stream, const Response& response, bool with_body = true) {
    std::string head = head_of(response);
    std::string_view body = with_body ? std::string_view(response.body()) : std::string_view();
    if (body.size() <= kSmallBody) {
      head += body;
      body = {};
    }
    boost::beast::buffers_suffix<std::array<asio::const_buffer, 2>> rest({asio::buffer(head), asio::buffer(body)});
    if constexpr (std::is_same_v<Stream, Socket>) {
      // Tries to write without waiting first. An asynchronous write always costs a turn of the event loop, even if it
      // succeeds at once. That turn would take a tenth of the time that /healthz needs.
      error_code error;
      rest.consume(stream.write_some(rest, error));
      if (error ? error != asio::error::would_block : boost::beast::buffer_bytes(rest) == 0) co_return error;
    }
    const auto [error, size] = co_await asio::async_write(stream, rest, by_deadline());
    co_return error;
  }

  // Ends the response. Then reads and discards what the client still sends, before the connection is closed. If a
  // connection with unread bytes were closed, the client could lose a response that it has not read yet.
  asio::awaitable<void> close_gently() {
    error_code error;
    size_t size = 0;
    socket.shutdown(Socket::shutdown_send, error);
    std::array<char, 4096> rest;
    expire_at(Clock::now() + kLinger);
    while (!error && !is_late()) {
      std::tie(error, size) = co_await socket.async_read_some(asio::buffer(rest), by_deadline());
    }
  }

  // If the connection is idle, ends its wait for the next request.
  void stop() {
    if (is_idle) cancel_.emit(asio::cancellation_type::terminal);
  }

  // Returns whether the client has disconnected. A client that only shuts down its sending side counts as disconnected,
  // even if it sent a complete request before.
  bool has_gone() {
    pollfd polled{socket.native_handle(), kPeerClosed, 0};
    return poll(&polled, 1, 0) > 0;  // also positive after an error, or if both sides are shut down
  }

  Socket socket;
  flat_buffer buffer{kMostBuffered};
  bool is_idle = false;

 private:
  void watch() {
    timer_.expires_at(end_);
    timer_.async_wait([weak = weak_from_this()](const error_code& error) {
      const auto connection = weak.lock();
      if (error || !connection) return;
      if (!connection->is_late()) return connection->watch();
      connection->timer_.expires_at(Clock::time_point::max());
      connection->cancel_.emit(asio::cancellation_type::terminal);
    });
  }

  HttpServer& server_;
  Clock::time_point end_;
  asio::steady_timer timer_;
  asio::cancellation_signal cancel_;
};

HttpServer::HttpServer(const HttpLimits& limits, Metrics& metrics) : limits_(limits), metrics_(metrics) {}

void HttpServer::use_tls(const std::string& certificate, const std::string& key) {
  handshakes_.emplace(kHandshakeThreads);
  tls_.emplace(asio::ssl::context::tls_server);
  error_code error;
  if (tls_->use_certificate_chain_file(certificate, error)) {
    throw std::runtime_error("--tls-cert " + certificate + ": " + error.message());
  }
  if (tls_->use_private_key_file(key, asio::ssl::context::pem, error)) {
    throw std::runtime_error("--tls-key " + key + ": " + error.message());
  }
}

std::string HttpServer::bind(const std::string& host, uint16_t port) {
  try {
    const tcp::endpoint endpoint = *tcp::resolver(io_).resolve(host, std::to_string(port)).begin();
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
    acceptor_.non_blocking(true);
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    struct sigaction hangup{};
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) signals_.add(SIGHUP);  // nohup ignores it
  } catch (const boost::system::system_error& error) {
    throw std::runtime_error("can't serve at " + host + ":" + std::to_string(port) + ": " + error.code().message());
  }
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return (tls_ ? "https://" : "http://") + name + ":" + std::to_string(acceptor_.local_endpoint().port());
}

void HttpServer::serve(const Routes& routes) {
  routes_ = &routes;
  signals_.async_wait([this](const error_code&, int) { stop(); });
  asio::co_spawn(io_, accept(), asio::detached);
  run_all(io_);
}

asio::awaitable<void> HttpServer::accept() {
  asio::steady_timer timer(io_);
  while (!stopping_) {
    auto [error] = co_await acceptor_.async_wait(acceptor_.wait_read, asio::as_tuple(asio::use_awaitable));
    if (!error) error = accept_queued(kMostAccepted);
    if (error && !stopping_) {
      timer.expires_after(kPause);
      co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    }
  }
}

// Accepts up to `most` clients that are already connected. If one turn of the event loop accepted only one client, the
// last of many new clients would wait until the others had been served many times.
error_code HttpServer::accept_queued(size_t most) {
  error_code error;
  try {
    for (size_t i = 0; i < most && !error; ++i) {
      Socket socket(io_);
      if (!acceptor_.accept(socket, error)) start(std::move(socket));
    }
  } catch (const std::bad_alloc&) {
    return asio::error::no_memory;
  }
  return error == asio::error::would_block ? error_code() : error;
}

void HttpServer::stop() {
  stopping_ = true;
  accept_queued(SIZE_MAX);  // these clients connected before the signal
  error_code error;
  acceptor_.close(error);
  for (Connection* connection : connections_) connection->stop();
}

void HttpServer::start(Socket socket) {
  if (connections_.size() >= limits_.connections + kMostRefused) return;
  const bool refused = connections_.size() >= limits_.connections;
  error_code error;
  socket.set_option(tcp::no_delay(true), error);
  socket.non_blocking(true, error);
  try {
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    asio::co_spawn(io_, serve_connection(std::move(connection), refused), asio::detached);
  } catch (const std::bad_alloc&) {
    // There is not enough memory even to send a refusal. Drops the connection.
  }
}

asio::awaitable<void> HttpServer::serve_connection(std::shared_ptr<Connection> connection, bool refused) {
  Socket& socket = connection->socket;
  if (tls_) {
    asio::ssl::stream<Socket&> secure(socket, *tls_);
    connection->expire_at(Clock::now() + limits_.request);
    auto [failed, error] = co_await asio::co_spawn(asio::make_strand(handshakes_->context()), shake_hands(secure),
                                                   connection->by_deadline());
    if (!failed && !error) {
      co_await serve_or_refuse(secure, *connection, refused);
      secure.shutdown(error);  // without waiting for the client's close_notify
    }
  } else {
    co_await serve_or_refuse(socket, *connection, refused);
  }
  co_await connection->close_gently();
}

asio::awaitable<error_code> HttpServer::shake_hands(asio::ssl::stream<Socket&>& secure) {
  const auto [error] = co_await secure.async_handshake(secure.server, asio::as_tuple(asio::use_awaitable));
  co_return error;
}

// Uses if statements instead of ?: to choose between awaitables. If ?: chooses an awaitable, GCC 12 destroys it twice.
template <typename Stream>
asio::awaitable<void> HttpServer::serve_or_refuse(Stream& stream, Connection& connection, bool refused) {
  if (refused) {
    Response response = refusal(kManyClients);
    response.prepare_payload();
    metrics_.replied("server", 503, 0);
    connection.expire_at(Clock::now() + kLinger);
    co_await connection.write(stream, response);
    co_return;
  }
  for (bool again = true; again;) {
    // The buffer may already contain the next request.
    if (connection.buffer.size() == 0) again = co_await wait_for_request(stream, connection);
    if (again) again = co_await serve_request(stream, connection);
    // Lets the other connections run between requests that arrived together.
    if (again && connection.buffer.size() > 0) co_await asio::post(asio::use_awaitable);
  }
}

template <typename Stream>
asio::awaitable<bool> HttpServer::wait_for_request(Stream& stream, Connection& connection) {
  flat_buffer& buffer = connection.buffer;
  if (buffer.capacity() > kFirstRead) buffer.shrink_to_fit();
  const auto space = buffer.prepare(kFirstRead);
  error_code error = asio::error::operation_aborted;
  size_t size = 0;
  if (!stopping_) {
    connection.expire_at(Clock::now() + kIdle);
    connection.is_idle = true;
    std::tie(error, size) = co_await stream.async_read_some(space, connection.by_deadline());
    connection.is_idle = false;
  }
  // Requests that arrived before the signal are still answered after it.
  if (error == asio::error::operation_aborted && stopping_) size = stream.read_some(space, error);
  buffer.commit(size);
  co_return !error;
}

template <typename Stream>
asio::awaitable<bool> HttpServer::serve_request(Stream& stream, Connection& connection) {
  http::request_parser<http::string_body> parser;
  std::optional<Response> response;
  connection.expire_at(Clock::now() + limits_.request);
  try {
    response = co_await receive(stream, connection, parser);
  } catch (const std::bad_alloc&) {
    response = refusal(kNoMemory);
  }
  bool is_clear = true;  // whether the server can find the end of the request
  if (response) {
    metrics_.replied("server", static_cast<int>(response->result_int()), 0);
    is_clear = response->result() == http::status::not_found || response->result() == http::status::method_not_allowed;
  } else if (parser.is_done()) {
    response = co_await answer(parser.get(), connection);
  } else {
    co_return false;  // the client has gone
  }
  // Keeps the connection open only if the whole request has been read. Otherwise, the rest of its body would be read as
  // the next request.
  const bool again = is_clear && parser.is_done() && parser.get().keep_alive() && !stopping_;
  response->keep_alive(again);
  response->prepare_payload();
  connection.expire_at(Clock::now() + limits_.request);
  const bool with_body = parser.get().method() != http::verb::head;
  const error_code error = co_await connection.write(stream, *response, with_body);
  co_return again && !error;
}

template <typename Stream, typename Parser>
asio::awaitable<std::optional<Response>> HttpServer::receive(Stream& stream, Connection& connection, Parser& parser) {
  flat_buffer& buffer = connection.buffer;
  parser.header_limit(kMostHead);
  parser.body_limit(limits_.body);
  error_code error;
  while (!error && buffer.size() < kMostHead && text_of(buffer).find("\r\n\r\n") == std::string_view::npos) {
    error = co_await connection.read(stream);
  }
  // Refuses requests with a header line that begins with white space. Beast joins such a line to the previous line. A
  // proxy may read the line as a separate header or skip it.
  const std::string_view lines = text_of(buffer).substr(0, text_of(buffer).find("\r\n\r\n"));
  if (lines.find("\r\n ") != std::string_view::npos || lines.find("\r\n\t") != std::string_view::npos) {
    co_return refusal(kNoHttp, "a line of its headers begins with a space");
  }
  if (!error) error = co_await connection.parse(stream, parser, false);
  if (!error) {
    parser.get().target(normalized(parser.get().target()));
    if (auto refused = check_head(parser.get())) co_return refused;
    const auto fields = std::distance(parser.get().begin(), parser.get().end());
    if (boost::beast::iequals(parser.get()[http::field::expect], "100-continue") && buffer.size() == 0) {
      size_t size = 0;
      std::tie(error, size) = co_await asio::async_write(stream, asio::buffer(kContinue), connection.by_deadline());
    }
    if (!error) error = co_await connection.parse(stream, parser, true);
    if (!error && std::distance(parser.get().begin(), parser.get().end()) > fields) co_return refusal(kLateHeaders);
  }
  if (error == asio::error::timed_out) co_return refusal(kTooSlow, limits_.request.count());
  const bool is_http = error && error.category() == http::make_error_code(http::error::end_of_stream).category();
  if (is_http) co_return parse_error(error, limits_.body);
  co_return std::nullopt;
}

// Checks a request's head before its body is read. Returns a response if the request is refused, for example because no
// route accepts it. Otherwise, returns none. Also refuses a request that declares the end of its body in two ways,
// because a proxy and this server could use different ways.
std::optional<Response> HttpServer::check_head(const Request& request) const {
  const std::string path(path_of(request).substr(0, 200)), method(request.method_string().substr(0, 20));
  const size_t encodings = request.count(http::field::transfer_encoding);
  const size_t lengths = request.count(http::field::content_length);
  const bool is_chunked = boost::beast::iequals(request[http::field::transfer_encoding], "chunked");
  if (request.version() != 10 && request.version() != 11) return refusal(kOldHttp);
  const bool is_length = request[http::field::content_length].find_first_not_of("0123456789") == std::string_view::npos;
  if (encodings + lengths > 1 || !is_length || (encodings == 1 && !(is_chunked && request.version() == 11))) {
    return refusal(kNoEnd);
  }
  const size_t hosts = request.count(http::field::host);
  const bool is_host = request[http::field::host].find_first_of(" \t,/@") == std::string_view::npos;
  if (hosts > 1 || !is_host || (hosts == 0 && request.version() == 11)) {
    return refusal(kNoHost);
  }
  const auto route = routes_->endpoints.find(path_of(request));
  if (route == routes_->endpoints.end()) return error_response(routes_->no_path(path));
  const bool is_post = route->second.is_post;
  if (is_post ? request.method() != http::verb::post
              : request.method() != http::verb::get && request.method() != http::verb::head) {
    Response response = refusal(kNoMethod, method, path);
    response.set(http::field::allow, is_post ? "POST" : "GET, HEAD");
    return response;
  }
  if (is_post && encodings + lengths == 0) return refusal(kNoBodyLength);
  if (!is_post && (encodings == 1 || (lengths == 1 && request[http::field::content_length] != "0"))) {
    return refusal(kNoBodyTaken, method);
  }
  const std::string_view encoding = request[http::field::content_encoding];
  if (!encoding.empty() && !can_unpack(encoding)) return refusal(kEncodedBody, Input(encoding.substr(0, 40)));
  return std::nullopt;
}

asio::awaitable<Response> HttpServer::answer(Request& request, Connection& connection) {
  const Endpoint& endpoint = routes_->endpoints.find(path_of(request))->second;
  const auto start = Clock::now();
  Response response;
  try {
    Exchange exchange{request, [&connection] { return connection.has_gone(); }};
    response = co_await endpoint.answer(exchange);
  } catch (const RequestError& error) {
    response = error_response(error);
  } catch (const std::bad_alloc&) {
    response = refusal(kNoMemory);
  } catch (const std::exception& error) {
    response = error_response(RequestError(error.what(), 500));
  }
  // If a client has disconnected, does not count its 503, because that 503 says nothing about the load.
  const bool is_unheard = response.result() == http::status::service_unavailable && connection.has_gone();
  if (!endpoint.label.empty() && !is_unheard) {
    metrics_.replied(std::string(endpoint.label), static_cast<int>(response.result_int()),
                     std::chrono::duration<double>(Clock::now() - start).count());
  }
  co_return response;
}
