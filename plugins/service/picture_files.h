// Picture files before they are decoded.
#ifndef VMOE_SERVICE_PICTURE_FILES_H_
#define VMOE_SERVICE_PICTURE_FILES_H_

#include <string>
#include <string_view>

// Checks a PNG's checksums and a JPEG's markers, and that they are there to the end, which decoders don't; the rules
// are those of runtime/vmoe_runtime/picture_files.py. Throws RequestError.
void check_picture(std::string_view file);

[[noreturn]] void refuse_picture(const std::string& why);

#endif  // VMOE_SERVICE_PICTURE_FILES_H_
