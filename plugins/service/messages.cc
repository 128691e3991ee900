#include "messages.h"

#include <algorithm>
#include <utility>

#include "requests.h"

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

Response error_response(const RequestError& error) {
  Response response = text_response(to_text({{"error", error.what()}}), kJson, error.status());
  if (error.status() == 503) response.set(http::field::retry_after, "1");
  return response;
}
