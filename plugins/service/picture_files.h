// Checks of picture files before they are decoded.
#pragma once

#include <string>
#include <string_view>

struct PictureFacts {
  int orientation = 0;          // EXIF's, 1 to 8, as Pillow reads it; 0 if there is none that can be read
  bool is_transparent = false;  // whether pixels may be, if they are to be on a background
};

// Checks the checksums of a PNG or the markers of a JPEG up to its end, which decoders do not; the rules are those of
// runtime/vmoe_runtime/picture_files.py. Throws RequestError.
PictureFacts check_picture(std::string_view file, bool has_background);

[[noreturn]] void refuse_picture(const std::string& why);
