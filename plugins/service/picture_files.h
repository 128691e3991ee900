// Checks picture files before they are decoded.
#pragma once

#include <string>
#include <string_view>

struct PictureFacts {
  int orientation = 0;          // EXIF orientation, 1 to 8, as Pillow reads it; 0 if absent or invalid
  bool is_transparent = false;  // whether pixels may be transparent; always false if the model has no background
};

// Checks all checksums of a PNG or all markers of a JPEG, which decoders do not check. The rules are those of
// runtime/vmoe_runtime/picture_files.py. Throws RequestError.
PictureFacts check_picture(std::string_view file, bool has_background);

[[noreturn]] void refuse_picture(const std::string& why);
