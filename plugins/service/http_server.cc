#include "http_server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>

#include "content_encoding.h"
#include "service.h"

namespace {

using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr auto kIdle = std::chrono::seconds(60);       // that a connection may stay idle
constexpr auto kLinger = std::chrono::seconds(2);      // for a client that is still sending to read its answer
constexpr auto kLook = std::chrono::milliseconds(50);  // between checks whether the server stops
constexpr uint32_t kMostHead = 16384;                  // bytes of a request's first line and headers
constexpr size_t kMostBuffered = 65536;                // bytes per connection, in addition to the body
constexpr size_t kRefusing = 8, kMostRefused = 256;    // threads for clients above the limit, and such clients
#if defined(POLLRDHUP)
constexpr short kPeerClosed = POLLRDHUP;
#else
constexpr short kPeerClosed = POLLHUP;
#endif

bool is_ready(const tcp::socket& socket, short events, Clock::time_point end) {
  pollfd polled{const_cast<tcp::socket&>(socket).native_handle(), events, 0};
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    const int ready = poll(&polled, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

// {"error": MESSAGE}
Response error_response(const RequestError& error) {
  Response response = text_response(to_text({{"error", error.what()}}), kJson, error.status());
  if (error.status() == 503) response.set(http::field::retry_after, "1");
  return response;
}

template <typename... Facts>
Response refusal(const Refusal& row, const Facts&... facts) {
  return error_response(RequestError(row, facts...));
}

Response parse_error(const error_code& error, size_t most_body) {
  if (error == http::error::body_limit) return refusal(kTooLarge, most_body >> 20);
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return refusal(kLongHead, kMostHead);
  return refusal(kNoHttp, error.message());
}

// A target without a scheme and a host before it, as proxies get (RFC 9112, 3.2.2), and without the encoding of
// characters that need none (RFC 3986, 6.2.2.2).
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

// Closing a connection with unread bytes would discard an answer that the client has not read.
void close_gently(tcp::socket& socket) {
  error_code error;
  socket.shutdown(tcp::socket::shutdown_send, error);
  std::array<char, 16384> rest{};
  for (const auto end = Clock::now() + kLinger; !error && is_ready(socket, POLLIN, end) && Clock::now() < end;) {
    socket.read_some(asio::buffer(rest), error);
  }
}

}  // namespace

// A connection with one deadline for all operations, so that a client that sends a byte a second gains nothing.
class HttpServer::DeadlineSocket {
 public:
  using executor_type = tcp::socket::executor_type;
  using lowest_layer_type = tcp::socket::lowest_layer_type;

  explicit DeadlineSocket(tcp::socket& socket) : socket_(socket) {}

  lowest_layer_type& lowest_layer() { return socket_.lowest_layer(); }
  executor_type get_executor() { return socket_.get_executor(); }
  void expire_at(Clock::time_point end) { end_ = end; }

  template <typename Buffers>
  size_t read_some(const Buffers& buffers, error_code& error) {
    return in_time(POLLIN, error) ? socket_.read_some(buffers, error) : 0;
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers, error_code& error) {
    return in_time(POLLOUT, error) ? socket_.write_some(buffers, error) : 0;
  }
  // Beast requires these of a stream, and never calls them.
  template <typename Buffers>
  size_t read_some(const Buffers& buffers) {
    return socket_.read_some(buffers);
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers) {
    return socket_.write_some(buffers);
  }

  // A client that shuts down its sending side counts as gone, too, whatever it sent before.
  bool has_gone() const {
    pollfd polled{socket_.native_handle(), kPeerClosed, 0};
    return poll(&polled, 1, 0) > 0;  // also at an error, or once both sides are shut down
  }

 private:
  bool in_time(short events, error_code& error) const {
    if (is_ready(socket_, events, end_)) return true;
    error = asio::error::timed_out;
    return false;
  }

  tcp::socket& socket_;
  Clock::time_point end_;
};

std::string_view path_of(const Request& request) {
  const std::string_view target = request.target();
  return target.substr(0, target.find('?'));
}

std::string_view query_of(const Request& request) {
  const std::string_view target = request.target();
  return target.substr(std::min(target.size(), path_of(request).size() + 1));
}

Response text_response(std::string body, const char* content_type, int status) {
  Response response(static_cast<http::status>(status), 11);
  response.set(http::field::content_type, content_type);
  response.body() = std::move(body);
  return response;
}

HttpServer::HttpServer(const HttpLimits& limits, Metrics& metrics)
    : limits_(limits), metrics_(metrics), threads_(limits.connections + kRefusing) {}

void HttpServer::use_tls(const std::string& certificate, const std::string& key) {
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
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    struct sigaction hangup{};
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) signals_.add(SIGHUP);  // as it is under nohup
  } catch (const boost::system::system_error& error) {
    throw std::runtime_error("can't serve at " + host + ":" + std::to_string(port) + ": " + error.code().message());
  }
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return (tls_ ? "https://" : "http://") + name + ":" + std::to_string(acceptor_.local_endpoint().port());
}

void HttpServer::serve(Service& service) {
  service_ = &service;
  signals_.async_wait([this](const error_code&, int) { stop(); });
  accept();
  io_.run();
  threads_.join();
}

void HttpServer::accept() {
  acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
    if (!error) start(std::move(socket));  // even one that was accepted before the signal
    if (stopping_) return;
    if (error) std::this_thread::sleep_for(kLook);  // the system is out of file descriptors
    accept();
  });
}

void HttpServer::stop() {
  stopping_ = true;
  error_code error;
  acceptor_.non_blocking(true, error);
  while (!error) {  // connections in the queue arrived before the signal
    tcp::socket socket(io_);
    if (!acceptor_.accept(socket, error)) start(std::move(socket));
  }
  acceptor_.close(error);
}

void HttpServer::start(tcp::socket socket) {
  if (open_ >= limits_.connections + kMostRefused) return;
  const bool refused = open_++ >= limits_.connections;
  try {
    asio::post(threads_, [this, refused, shared = std::make_shared<tcp::socket>(std::move(socket))] {
      try {
        serve_connection(*shared, refused);
        close_gently(*shared);
      } catch (const std::exception&) {
        // There is not even memory for a refusal.
      }
      error_code ignored;
      shared->close(ignored);
      --open_;
    });
  } catch (const std::bad_alloc&) {
    --open_;
  }
}

void HttpServer::serve_connection(tcp::socket& socket, bool refused) {
  error_code error;
  socket.set_option(tcp::no_delay(true), error);
  socket.non_blocking(true, error);
  DeadlineSocket stream(socket);
  if (!tls_) return serve_requests(stream, stream, refused);
  asio::ssl::stream<DeadlineSocket&> secure(stream, *tls_);
  stream.expire_at(Clock::now() + limits_.request);
  if (secure.handshake(secure.server, error)) return;
  serve_requests(secure, stream, refused);
  stream.expire_at(Clock::now());  // without waiting for the client's close_notify
  secure.shutdown(error);
}

template <typename Stream>
void HttpServer::serve_requests(Stream& stream, DeadlineSocket& socket, bool refused) {
  if (refused) {
    Response response = refusal(kManyClients);
    response.prepare_payload();
    metrics_.replied("server", 503, 0);
    socket.expire_at(Clock::now() + kLinger);
    error_code error;
    http::write(stream, response, error);
    return;
  }
  boost::beast::flat_buffer buffer(kMostBuffered);
  for (auto idle_end = Clock::now() + kIdle; Clock::now() < idle_end;) {
    const bool stops = stopping_;
    if (buffer.size() == 0) {
      error_code error;
      socket.expire_at(stops ? Clock::now() : Clock::now() + kLook);
      buffer.commit(stream.read_some(buffer.prepare(4096), error));
      if (error && (stops || error != asio::error::timed_out)) return;
      if (error) continue;
    }
    if (!serve_request(stream, socket, buffer)) return;
    idle_end = Clock::now() + kIdle;
  }
}

// Returns whether the connection may have another request.
template <typename Stream>
bool HttpServer::serve_request(Stream& stream, DeadlineSocket& socket, boost::beast::flat_buffer& buffer) {
  http::request_parser<http::string_body> parser;
  std::optional<Response> response;
  socket.expire_at(Clock::now() + limits_.request);
  try {
    response = receive(stream, buffer, parser);
  } catch (const std::bad_alloc&) {
    response = refusal(kNoMemory);
  }
  bool is_clear = true;  // where the request ends
  if (response) {
    metrics_.replied("server", static_cast<int>(response->result_int()), 0);
    is_clear = response->result() == http::status::not_found || response->result() == http::status::method_not_allowed;
  } else if (parser.is_done()) {
    response = answer(parser.get(), socket);
  } else {
    return false;  // the client has gone
  }
  // The rest of an unread body must not be taken for a request.
  const bool again = is_clear && parser.is_done() && parser.get().keep_alive() && !stopping_;
  response->keep_alive(again);
  response->prepare_payload();
  socket.expire_at(Clock::now() + limits_.request);
  http::response_serializer<http::string_body> serializer(*response);
  error_code error;
  if (parser.get().method() == http::verb::head) {
    http::write_header(stream, serializer, error);
  } else {
    http::write(stream, serializer, error);
  }
  return again && !error;
}

template <typename Stream, typename Parser>
std::optional<Response> HttpServer::receive(Stream& stream, boost::beast::flat_buffer& buffer, Parser& parser) const {
  parser.header_limit(kMostHead);
  parser.body_limit(limits_.body);
  error_code error;
  const auto head = [&buffer] {
    return std::string_view(static_cast<const char*>(buffer.data().data()), buffer.size());
  };
  while (!error && buffer.size() < kMostHead && head().find("\r\n\r\n") == std::string_view::npos) {
    buffer.commit(stream.read_some(buffer.prepare(4096), error));
  }
  // Beast joins such a line to the previous one; a proxy may take it for a header, or skip it.
  const std::string_view lines = head().substr(0, head().find("\r\n\r\n"));
  if (lines.find("\r\n ") != std::string_view::npos || lines.find("\r\n\t") != std::string_view::npos) {
    return refusal(kNoHttp, "a line of its headers begins with a space");
  }
  if (!error) http::read_header(stream, buffer, parser, error);
  if (!error) {
    parser.get().target(normalized(parser.get().target()));
    if (auto refusal = check_head(parser.get())) return refusal;
    const auto fields = std::distance(parser.get().begin(), parser.get().end());
    if (boost::beast::iequals(parser.get()[http::field::expect], "100-continue") && buffer.size() == 0) {
      http::write(stream, http::response<http::empty_body>(http::status::continue_, 11), error);
    }
    if (!parser.is_done()) http::read(stream, buffer, parser, error);
    if (!error && std::distance(parser.get().begin(), parser.get().end()) > fields) {
      return refusal(kLateHeaders);
    }
  }
  if (error == asio::error::timed_out) return refusal(kTooSlow, limits_.request.count());
  const bool is_http = error && error.category() == http::make_error_code(http::error::end_of_stream).category();
  if (!is_http || error == http::error::end_of_stream || error == http::error::partial_message) return std::nullopt;
  return parse_error(error, limits_.body);
}

// Refuses requests that no route takes before their bodies are read, and those that give the end of the body in two
// ways: a proxy may use the other one.
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
  const auto route = service_->routes.find(path_of(request));
  if (route == service_->routes.end()) return error_response(service_->no_path(path));
  const bool is_post = route->second->is_post;
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

Response HttpServer::answer(Request& request, const DeadlineSocket& socket) const {
  const Route& route = *service_->routes.find(path_of(request))->second;
  const auto start = Clock::now();
  Response response;
  try {
    Exchange exchange{request, [&socket] { return socket.has_gone(); }};
    const std::string_view encoding = request[http::field::content_encoding];
    if (!encoding.empty()) request.body() = unpacked(request.body(), encoding, limits_.body);
    response = route.answer(*service_, exchange);
  } catch (const RequestError& error) {
    response = error_response(error);
  } catch (const std::bad_alloc&) {
    response = refusal(kNoMemory);
  } catch (const std::exception& error) {
    response = error_response(RequestError(error.what(), 500));
  }
  // That a client has gone says nothing of the load.
  const bool is_unheard = response.result() == http::status::service_unavailable && socket.has_gone();
  if (*route.label != '\0' && !is_unheard) {
    metrics_.replied(route.label, static_cast<int>(response.result_int()),
                     std::chrono::duration<double>(Clock::now() - start).count());
  }
  return response;
}
