// Checks of picture files before they are decoded.
#pragma once

#include <string>
#include <string_view>

// Checks the checksums of a PNG or the markers of a JPEG up to its end, which decoders do not; the rules are those of
// runtime/vmoe_runtime/picture_files.py. Throws RequestError.
void check_picture(std::string_view file);

[[noreturn]] void refuse_picture(const std::string& why);
