// The types that the server exchanges with the endpoints behind it: requests, responses and routes.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <map>
#include <string>
#include <string_view>

class RequestError;

namespace asio = boost::asio;
namespace http = boost::beast::http;

using Request = http::request<http::string_body>;

struct Response : http::response<http::string_body> {
  using http::response<http::string_body>::message;
};

// Returns whether the client has disconnected, in which case nobody waits for the response. Any thread may call this
// function until the response has been returned.
using HasGone = std::function<bool()>;

// A request that has not been answered yet.
struct Exchange {
  Request& request;
  HasGone has_gone;
};

// The handler of one URL path.
struct Endpoint {
  bool is_post = false;                                        // otherwise GET and HEAD
  std::string_view label;                                      // label in the metrics; empty if replies are not counted
  std::function<asio::awaitable<Response>(Exchange&)> answer;  // throws RequestError
};

struct Routes {
  std::map<std::string, Endpoint, std::less<>> endpoints;        // by path
  std::function<RequestError(const std::string& path)> no_path;  // returns the error for a path that has no endpoint
};

// Return the parts of a request's target before and after the `?`.
std::string_view path_of(const Request& request);
std::string_view query_of(const Request& request);

Response text_response(std::string body, const char* content_type, int status = 200);

// Returns a response with the body {"error": MESSAGE}.
Response error_response(const RequestError& error);
