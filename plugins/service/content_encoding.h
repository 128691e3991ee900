// Decompresses request bodies whose Content-Encoding is gzip or deflate.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

bool can_unpack(std::string_view encoding);

// Returns the decompressed body. `encoding` is gzip or deflate. Throws RequestError if the body is incomplete or
// damaged, or if it unpacks to more than `most` bytes.
std::string unpacked(const std::string& body, std::string_view encoding, size_t most);
