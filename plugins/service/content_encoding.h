// Bodies that are gzip or deflate, as the header Content-Encoding says.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

bool can_unpack(std::string_view encoding);

// Throws RequestError if the body is not complete in its encoding, or has more than `most` bytes without it.
std::string unpacked(const std::string& body, std::string_view encoding, size_t most);
