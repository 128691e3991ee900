// Whether bytes are text.
#ifndef VMOE_SDK_UTF8_H_
#define VMOE_SDK_UTF8_H_

#include <cstddef>
#include <string_view>

namespace vmoe::sdk {

// Bytes of the character at the start, 1 to 4; 0 where there is none that is well-formed.
size_t utf8_length(std::string_view bytes);

// True for well-formed UTF-8: no stray or missing bytes, no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_UTF8_H_
