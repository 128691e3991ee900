#include "picture_files.h"

#include <algorithm>
#include <boost/crc.hpp>

#include "requests.h"

namespace {

constexpr char kEndsEarly[] = "it ends too early", kMarker[] = "a marker is damaged, or of a kind that is not read",
               kTooMany[] = "it has too many parts";

void check(bool holds, const char* why) {
  if (!holds) refuse_picture(why);
}

size_t number(std::string_view file, size_t at, size_t size) {
  check(at + size <= file.size(), kEndsEarly);
  size_t value = 0;
  for (const unsigned char byte : file.substr(at, size)) value = value << 8 | byte;
  return value;
}

using namespace std::string_view_literals;

// The metadata in which a picture file may store its EXIF orientation. It is EXIF data (TIFF tags) or XMP data (XML).
struct Notes {
  std::string exif;
  std::string_view xmp;
  bool is_transparent = false;
};

int orientation_in(const Notes& notes) {
  const std::string_view exif = notes.exif;
  const bool is_little = exif.starts_with("II*\0"sv);
  const auto value = [&](size_t at, size_t size) {
    size_t sum = 0;
    for (size_t i = 0; i < size; ++i) {
      const size_t place = at + (is_little ? size - 1 - i : i);
      sum = sum << 8 | (place < exif.size() ? static_cast<unsigned char>(exif[place]) : 0);
    }
    return sum;
  };
  const auto valid = [](size_t orientation) { return orientation <= 8 ? static_cast<int>(orientation) : 0; };
  if (is_little || exif.starts_with("MM\0*"sv)) {
    const size_t directory = value(4, 4), count = value(directory, 2);
    for (size_t entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      const size_t type = value(entry + 2, 2), size = type == 3 ? 2 : type == 4 ? 4 : 0;
      if (value(entry, 2) != 0x112) continue;
      const size_t bytes = size * value(entry + 4, 4);  // if the tag has several values, the first value applies
      return bytes == 0 ? 0 : valid(value(bytes <= 4 ? entry + 8 : value(entry + 8, 4), size));
    }
  }
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = notes.xmp.find(kName); at < notes.xmp.size(); at = notes.xmp.find(kName, at + 1)) {
    const std::string_view rest = notes.xmp.substr(at + kName.size());
    const size_t digit = rest.starts_with("=\"") ? 2 : rest.starts_with('>') ? 1 : rest.size();
    if (digit < rest.size() && rest[digit] >= '0' && rest[digit] <= '9') return valid(rest[digit] - '0');
  }
  return 0;
}

Notes check_png(std::string_view file, bool has_background) {
  Notes notes;
  bool has_palette = false;
  size_t position = 8, color = 0, depth = 0;
  for (int part = 0; part < kMostParts; ++part) {
    const size_t length = number(file, position, 4), end = position + 12 + length;
    const size_t checksum = number(file, end - 4, 4);
    const std::string_view kind = file.substr(position + 4, 4);
    boost::crc_32_type crc;
    crc.process_bytes(kind.data(), 4 + length);
    check(crc.checksum() == checksum, "the checksum of a chunk is wrong");
    if (part == 0) {
      check(kind == "IHDR" && length == 13, "it has no header of a PNG");
      const size_t methods = number(file, position + 18, 2);
      depth = number(file, position + 16, 1);
      color = number(file, position + 17, 1);
      check(methods == 0 && (depth >= 8 || color == 0 || color == 3), "it has no header of a PNG");
    }
    has_palette |= kind == "PLTE" && length > 0;
    check(kind != "IDAT" || color != 3 || has_palette, "it has no palette");
    const bool is_known = kind == "IHDR" || kind == "PLTE" || kind == "IDAT" || kind == "IEND";
    check(is_known || kind[0] >= 'a', "it has a chunk of unknown kind");
    notes.is_transparent |= has_background && (kind == "tRNS" || color == 4 || color == 6);
    const bool has_key = has_background && kind == "tRNS" && (color == 0 || color == 2);
    check(!has_key || depth == 1 || depth == 8,
          "its transparent colour is not of 8 bits: make it a PNG of 8 bits with alpha");
    if (kind == "eXIf") notes.exif = file.substr(position + 8, length);
    if (kind == "IEND") return notes;
    position = end;
  }
  refuse_picture(kTooMany);
}

// Returns where the scan that starts at `position` ends. The scan ends at the next marker that is not a restart marker.
// Refuses restart markers that are out of order.
size_t end_of_scan(std::string_view file, size_t position, bool has_restarts) {
  for (int restart = 0; restart < kMostParts; ++position) {
    position = std::min(file.find('\xFF', position), file.size());
    const size_t next = number(file, position + 1, 1);
    if (next == 0xFF) continue;
    if (next != 0 && (next & 0xF8) != 0xD0) return position;
    check(next == 0 || (has_restarts && (next & 7) == (restart++ & 7)), kMarker);
    ++position;
  }
  refuse_picture(kTooMany);
}

Notes check_jpeg(std::string_view file) {
  constexpr auto kExif = "Exif\0\0"sv, kXmp = "http://ns.adobe.com/xap/1.0/\0"sv;
  Notes notes;
  bool has_frame = false, has_codes = false, has_tables = false, has_restarts = false, is_adobe = false;
  int scans = 0;
  size_t position = 2;
  for (int part = 0; part < kMostParts; ++part) {
    const size_t mark = number(file, position, 2), marker = mark & 0xFF;
    if (mark == 0xFFFF) {  // padding
      ++position;
      continue;
    }
    if (mark == 0xFFD9) {
      check(scans > 0, kEndsEarly);
      return notes;
    }
    const bool is_frame = marker >= 0xC0 && marker <= 0xC2, is_scan = marker == 0xDA;
    const bool is_other = marker == 0xC4 || marker == 0xDB || marker == 0xDD || marker >> 4 == 0xE || marker == 0xFE;
    check(mark >> 8 == 0xFF && (is_frame || is_scan || is_other), kMarker);
    const size_t length = number(file, position + 2, 2);
    if (is_frame) check(!has_frame && length > 7 && (number(file, position + 9, 1) != 4 || is_adobe), kMarker);
    const std::string_view content = file.substr(std::min(position + 4, file.size()), std::max<size_t>(length, 2) - 2);
    if (marker == 0xE1 && content.starts_with(kExif)) notes.exif += content.substr(kExif.size());
    if (marker == 0xE1 && content.starts_with(kXmp)) notes.xmp = content.substr(kXmp.size());
    if (marker == 0xDD) has_restarts = number(file, position + 4, 2) != 0;
    has_frame |= is_frame;
    has_codes |= marker == 0xC4;
    has_tables |= marker == 0xDB;
    is_adobe |= marker == 0xEE;
    position += 2 + length;
    if (is_scan) {
      position = end_of_scan(file, position, has_restarts);
      check(has_frame && has_codes && has_tables && ++scans <= kMostScans, kMarker);
    }
  }
  refuse_picture(kTooMany);
}

}  // namespace

void refuse_picture(const std::string& why) { throw RequestError("the body is not a readable image: " + why); }

PictureFacts check_picture(std::string_view file, bool has_background) {
  Notes notes;
  if (file.starts_with("\x89PNG\r\n\x1A\n")) notes = check_png(file, has_background);
  if (file.starts_with("\xFF\xD8")) notes = check_jpeg(file);
  return {orientation_in(notes), notes.is_transparent};
}
