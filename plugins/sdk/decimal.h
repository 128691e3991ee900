// Doubles as text, the same in every locale and the same as in Python.
#pragma once

#include <cstdint>
#include <string>

namespace vmoe::sdk {

// The shortest text that reads back as the same double: `repr(value)` of Python, such as "0.3", "1.0" or "1e-06".
std::string shortest(double value);

// Six significant digits: "%g" of C.
std::string rounded(double value);

// "131,072".
std::string in_thousands(int64_t number);

// The double nearest to digits like "0.3" or "1e-6"; infinity where it is too large and 0 where it is too small.
double parse_decimal(const std::string& text);

}  // namespace vmoe::sdk
