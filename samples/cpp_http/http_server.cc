#include "http_server.h"

#include <fcntl.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

namespace {

constexpr auto kIdle = std::chrono::seconds(60);       // that a connection may stay without a request
constexpr auto kLook = std::chrono::milliseconds(50);  // between two looks at whether the server stops
constexpr const char* kNoMemory = "there is not enough memory for this request";
constexpr const char* kUnavailable = "503 Service Unavailable";

// The connection that the thread serves.
thread_local DeadlineStream* current = nullptr;

// Whether a path is one of a route.
bool matches(const std::string& route, const std::string& path) {
  const size_t name = route.find(':');
  if (name == std::string::npos) return route == path;
  const size_t route_end = std::min(route.find('/', name), route.size());
  const size_t path_end = std::min(path.find('/', name), path.size());
  return path.compare(0, name, route, 0, name) == 0 && path_end > name &&
         path.compare(path_end, std::string::npos, route, route_end, std::string::npos) == 0;
}

bool has_body(const httplib::Request& request) {
  const size_t lengths = request.get_header_value_count("Content-Length");
  return request.has_header("Transfer-Encoding") || lengths > 1 ||
         (lengths == 1 && request.get_header_value("Content-Length") != "0");
}

// Whether there is one word about where the body ends. Where there are two, somebody may go by the other.
bool has_clear_end(const httplib::Request& request) {
  const size_t encodings = request.get_header_value_count("Transfer-Encoding");
  return encodings + request.get_header_value_count("Content-Length") == 1 &&
         (encodings == 0 || strcasecmp(request.get_header_value("Transfer-Encoding").c_str(), "chunked") == 0);
}

}  // namespace

HttpServer::HttpServer(const HttpLimits& limits, std::function<std::string(const std::string&)> error_body,
                       std::function<void(int)> refused)
    : limits_(limits), error_body_(std::move(error_body)), refused_(std::move(refused)) {
  using Request = httplib::Request;
  using Response = httplib::Response;
  set_tcp_nodelay(true);
  set_payload_max_length(limits.most_bytes);
  // httplib would share a port with another process.
  set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  set_pre_routing_handler([this](const Request& request, Response& response) { return admit(request, response); });
  set_error_handler([this](const Request&, Response& response) { explain(response); });
  set_post_routing_handler([this](const Request&, Response& response) { finish(response); });
  set_exception_handler([this](const Request&, Response& response, const std::exception_ptr& thrown) {
    int status = 500;
    std::string sentence = "something unknown went wrong";
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      status = 503;
      sentence = kNoMemory;
    } catch (const std::exception& error) {
      sentence = error.what();
    }
    current->end();
    refused_(status);
    refuse(response, status, sentence);
  });
}

void HttpServer::get(const std::string& path, Handler handler) {
  routes_.emplace_back(path, "GET, HEAD");
  Get(path, std::move(handler));
}

void HttpServer::post(const std::string& path, HandlerWithContentReader handler) {
  routes_.emplace_back(path, "POST");
  Post(path, std::move(handler));
}

std::string HttpServer::bind(const std::string& host, int port) {
  errno = 0;
  const int bound = port == 0 ? bind_to_any_port(host) : (bind_to_port(host, port) ? port : -1);
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  // httplib lets five clients wait to be accepted, and a burst of more would wait for seconds.
  if (bound >= 0 && ::listen(svr_sock_, SOMAXCONN) == 0 && fcntl(svr_sock_, F_SETFL, O_NONBLOCK) == 0) {
    return name + ":" + std::to_string(bound);
  }
  throw std::runtime_error("can't serve at " + name + ":" + std::to_string(port) + ": " +
                           (errno != 0 ? std::strerror(errno) : "there is no such host"));
}

void HttpServer::serve(const std::function<bool()>& stops) {
  GentleCloser closer;
  LimitedThreads threads(limits_.connections, [this, &closer](socket_t socket) {
    serve_connection(socket);
    closer.close(socket);
  });
  try {
    while (!stops()) {
      if (wait_for(svr_sock_, POLLIN, Clock::now() + kLook)) take_client(threads, closer);
    }
  } catch (...) {
    stopping_ = true;
    throw;
  }
  stopping_ = true;
  // Who stands in the queue has come before.
  for (int left = SOMAXCONN; left > 0 && take_client(threads, closer); --left) {
  }
  ::close(svr_sock_.exchange(INVALID_SOCKET));
}

// False where there is none.
bool HttpServer::take_client(LimitedThreads& threads, GentleCloser& closer) const {
  const socket_t socket = accept4(svr_sock_, nullptr, nullptr, SOCK_CLOEXEC);
  if (socket == INVALID_SOCKET) {
    const int error = errno;
    if (error == EBADF || error == EINVAL || error == ENOTSOCK) {
      throw std::runtime_error(std::string("can't take clients any more: ") + std::strerror(error));
    }
    // A client waits until there is something for it. Any other error is that of a connection which is no more.
    if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) std::this_thread::sleep_for(kLook);
    return false;
  }
  if (threads.take(socket)) return true;
  try {
    refuse_raw(socket, kUnavailable, "as many clients are connected as may be");
  } catch (const std::bad_alloc&) {
  }
  closer.close(socket);
  return true;
}

void HttpServer::serve_connection(socket_t socket) {
  DeadlineStream stream(socket, limits_.request);
  current = &stream;
  try {
    while (next_request(stream) && serve_request(stream)) {
    }
  } catch (const std::exception&) {
    // Not even for a refusal.
  }
  current = nullptr;
}

// Whether a request begins to come; when the server stops, whether one has.
bool HttpServer::next_request(const DeadlineStream& stream) const {
  for (const auto end = Clock::now() + kIdle;;) {
    const bool stops = stopping_;
    const auto now = Clock::now();
    if (stream.has_bytes() || wait_for(stream.socket(), POLLIN, stops ? now : now + kLook)) return true;
    if (stops || now >= end) return false;
  }
}

// Whether the connection may have a next one.
bool HttpServer::serve_request(DeadlineStream& stream) {
  stream.begin_request();
  bool closed = false, failed = false, served = false;
  try {
    served = process_request(stream, "", 0, "", 0, false, closed, [](httplib::Request& request) {
      // Answers come whole and as they are: brotli at httplib's quality takes seconds for a few megabytes.
      request.ranges.clear();
      request.headers.erase("Accept-Encoding");
    });
  } catch (const std::exception&) {
    failed = true;
  }
  // httplib says nothing where the first line doesn't come, and catches only what handlers throw: there may be no
  // memory for a head or an answer.
  if (!served && !stream.is_answering()) {
    if (failed) refuse_raw(stream.socket(), kUnavailable, kNoMemory);
    if (!failed && stream.is_late()) refuse_raw(stream.socket(), "408 Request Timeout", late_sentence());
  }
  return served && !closed && !stream.has_ended();
}

// Refuses what no route takes, before anything of a body is read: httplib would put the body into memory, as large as
// it unpacks. What is left of that body is no next request.
HttpServer::HandlerResponse HttpServer::admit(const httplib::Request& request, httplib::Response& response) const {
  const std::string& method = request.method;
  const std::string path = request.path.substr(0, 200);
  std::string allowed;
  for (const auto& [route, methods] : routes_) {
    if (matches(route, request.path)) allowed = methods;
  }
  const bool posted = allowed == "POST";
  int status = 0;
  std::string sentence;
  if (allowed.empty()) {
    status = 404;
    sentence = "there is nothing at " + path;
  } else if (posted ? method != "POST" : method != "GET" && method != "HEAD") {
    status = 405;
    sentence = method + " is not what " + path + " takes";
    response.set_header("Allow", allowed);
  } else if (!posted) {
    if (!has_body(request)) return HandlerResponse::Unhandled;
    status = 400;
    sentence = method + " takes no body";
  } else if (has_clear_end(request)) {
    return HandlerResponse::Unhandled;
  } else if (!has_body(request) && !request.has_header("Content-Length")) {
    status = 411;
    sentence = "the request has no body, or doesn't say how long it is: send Content-Length";
  } else {
    status = 400;
    sentence = "where the body ends can't be understood: send Content-Length, or Transfer-Encoding: chunked";
  }
  if (has_body(request) || status == 411) current->end();
  refused_(status);
  refuse(response, status, sentence);
  return HandlerResponse::Handled;
}

bool HttpServer::read_body(const httplib::Request& request, httplib::Response& response,
                           const httplib::ContentReader& reader, std::string& body) const {
  if (request.is_multipart_form_data()) {
    current->end();
    refused_(400);
    refuse(response, 400, "a form is not understood: send the picture itself, or JSON");
    return false;
  }
  bool too_large = false;
  const bool complete = reader([&](const char* data, size_t size) {
    too_large = body.size() + size > limits_.most_bytes;
    if (!too_large) body.append(data, size);
    return !too_large;
  });
  current->begin_answer();
  if (complete && !too_large && !current->is_late()) return true;
  if (too_large) {
    response.status = 413;
  } else if (response.status < 400) {
    response.status = 400;
  }
  explain(response);
  return false;
}

void HttpServer::refuse(httplib::Response& response, int status, const std::string& sentence) const {
  response.status = status;
  if (status == 503) response.set_header("Retry-After", "1");
  response.set_content(error_body_(sentence), "application/json");
}

// The sentence of a refusal that httplib made. It has not read the request to its end.
void HttpServer::explain(httplib::Response& response) const {
  if (!response.body.empty()) return;
  const int status = response.status == 400 && current->is_late() ? 408 : response.status;
  std::string sentence;
  switch (status) {
    case 408: sentence = late_sentence(); break;
    case 413: sentence = "the body is larger than " + std::to_string(limits_.most_bytes >> 20) + " MB"; break;
    case 414: sentence = "the address is too long"; break;
    case 416: sentence = "the header Range can't be understood, and no answer has parts"; break;
    default: sentence = status < 500 ? "the request can't be understood" : "the request can't be served"; break;
  }
  current->end();
  refused_(status);
  refuse(response, status, sentence);
}

// The headers that every answer has.
void HttpServer::finish(httplib::Response& response) const {
  if (stopping_) current->end();
  // It names limits of httplib's own loop.
  response.headers.erase("Keep-Alive");
  if (current->has_ended() && !response.has_header("Connection")) response.set_header("Connection", "close");
}

std::string HttpServer::late_sentence() const {
  return "the request did not arrive within " + std::to_string(limits_.request.count()) + " seconds";
}

// A refusal where httplib gives none.
void HttpServer::refuse_raw(socket_t socket, const char* status, const std::string& sentence) const {
  refused_(std::atoi(status));
  const std::string body = error_body_(sentence);
  const std::string reply =
      std::string("HTTP/1.1 ") + status +
      "\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  (void)send(socket, reply.data(), reply.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}
