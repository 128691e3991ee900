// An HTTP server for clients that are slow, many, or gone, on Boost.Beast: every request has a deadline, connections
// are limited, and what has arrived before it stops is answered.
#ifndef VMOE_SERVICE_HTTP_SERVER_H_
#define VMOE_SERVICE_HTTP_SERVER_H_

#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

using Request = http::request<http::string_body>;
using Response = http::response<http::string_body>;

struct HttpLimits {
  size_t connections = 128;          // at once
  size_t body = 0;                   // bytes
  std::chrono::seconds request{10};  // for a request to arrive, and then for its answer to be taken
};

// What stands before and behind the `?` of a request's address.
std::string_view path_of(const Request& request);
std::string_view query_of(const Request& request);

Response text_response(std::string body, const char* content_type, int status = 200);
// {"error": MESSAGE}
Response error_response(int status, const std::string& message);

class HttpServer {
 public:
  // has_gone: whether nobody waits for the response any more. Throws RequestError for a refusal.
  using Handler = std::function<Response(Request& request, const std::function<bool()>& has_gone)>;
  // Hears of the name of the route, "server" where the request didn't get to one, of status and seconds; on any thread.
  using Replied = std::function<void(const char*, int, double)>;

  HttpServer(const HttpLimits& limits, Replied replied);

  // Serves HTTPS with PEM files. Throws std::runtime_error where they can't be used.
  void use_tls(const std::string& certificate, const std::string& key);

  // name: of the route for `replied`; null where its replies are not counted. Only requests of post() may have a body.
  void get(const std::string& path, const char* name, std::function<Response()> handler);
  void post(const std::string& path, const char* name, Handler handler);

  // The address it listens at, http://HOST:PORT; port 0 takes a free one. Throws std::runtime_error where it can't.
  // From here on SIGTERM and SIGINT stop serve(), whenever it begins.
  std::string bind(const std::string& host, uint16_t port);

  // Serves until a signal comes, and until what has arrived by then is answered.
  void serve();

 private:
  struct Route {
    http::verb method = http::verb::get;
    const char* name = nullptr;
    Handler handler;
  };
  class DeadlineSocket;

  void accept();
  void stop();
  void start(tcp::socket socket);
  void serve_connection(tcp::socket& socket, bool refused);
  template <typename Stream>
  void serve_requests(Stream& stream, DeadlineSocket& socket, bool refused);
  template <typename Stream>
  bool serve_request(Stream& stream, DeadlineSocket& socket, boost::beast::flat_buffer& buffer);
  // Reads a request. The response is a refusal.
  template <typename Stream, typename Parser>
  std::optional<Response> receive(Stream& stream, boost::beast::flat_buffer& buffer, Parser& parser) const;
  std::optional<Response> check_head(const Request& request) const;
  Response answer(Request& request, const DeadlineSocket& socket) const;

  const HttpLimits limits_;
  const Replied replied_;
  std::map<std::string, Route, std::less<>> routes_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_};
  tcp::acceptor acceptor_{io_};
  std::optional<asio::ssl::context> tls_;
  std::atomic<size_t> open_{0};  // connections
  std::atomic<bool> stopping_{false};
  asio::thread_pool threads_;  // one for each connection
};

#endif  // VMOE_SERVICE_HTTP_SERVER_H_
