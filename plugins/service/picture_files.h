// Checks picture files before they are decoded.
#pragma once

#include <string>
#include <string_view>

struct PictureFacts {
  int orientation = 0;          // EXIF orientation as Pillow reads it, 1 to 8; 0 if missing or invalid
  bool is_transparent = false;  // whether pixels may be transparent; always false if the model has no background
};

// Checks what decoders do not check: all checksums in a PNG, and all markers in a JPEG. The rules are the same as in
// runtime/vmoe_runtime/picture_files.py. Throws RequestError if the picture is refused.
PictureFacts check_picture(std::string_view file, bool has_background);

[[noreturn]] void refuse_picture(const std::string& why);
