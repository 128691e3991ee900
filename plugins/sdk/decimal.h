// Conversion of numbers to and from text. The results are the same in every locale, and the same as in Python.
#pragma once

#include <cstdint>
#include <string>

namespace vmoe::sdk {

// Returns the shortest text that reads back as the same double, such as "0.3", "1.0" or "1e-06". The result equals that
// of Python's `repr`.
std::string shortest(double value);

// Returns the number as text with six significant digits. The format is that of C's "%g".
std::string rounded(double value);

// Returns the number with thousands separators, such as "131,072".
std::string in_thousands(int64_t number);

// Returns the double nearest to a decimal number such as "0.3" or "1e-6". Returns infinity if the number is too large,
// and 0 if it is too small.
double parse_decimal(const std::string& text);

}  // namespace vmoe::sdk
