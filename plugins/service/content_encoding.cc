#include "content_encoding.h"

#define ZLIB_CONST
#include <zlib.h>

#include <array>
#include <boost/beast/core/string.hpp>
#include <memory>
#include <new>

#include "requests.h"

using boost::beast::iequals;

bool can_unpack(std::string_view encoding) {
  return iequals(encoding, "gzip") || iequals(encoding, "deflate") || iequals(encoding, "identity");
}

std::string unpacked(const std::string& body, std::string_view encoding, size_t most) {
  if (iequals(encoding, "identity")) return body;
  z_stream stream{};
  if (inflateInit2(&stream, iequals(encoding, "gzip") ? 16 + MAX_WBITS : MAX_WBITS) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> ended(&stream, inflateEnd);
  stream.next_in = reinterpret_cast<const Bytef*>(body.data());
  stream.avail_in = static_cast<uInt>(body.size());
  std::array<char, 65536> part{};
  std::string found;
  for (int state = Z_OK; state != Z_STREAM_END;) {
    stream.next_out = reinterpret_cast<Bytef*>(part.data());
    stream.avail_out = part.size();
    state = inflate(&stream, Z_NO_FLUSH);
    const bool is_whole = state == Z_OK || (state == Z_STREAM_END && stream.avail_in == 0);
    if (!is_whole) throw RequestError(kNoBodyEncoding, encoding);
    found.append(part.data(), part.size() - stream.avail_out);
    if (found.size() > most) throw RequestError(kTooLarge, most >> 20);
  }
  return found;
}
