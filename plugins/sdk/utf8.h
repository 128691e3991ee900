// Whether bytes are text.
#ifndef VMOE_SDK_UTF8_H_
#define VMOE_SDK_UTF8_H_

#include <string_view>

namespace vmoe::sdk {

// True for well-formed UTF-8: no stray or missing bytes, no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_UTF8_H_
