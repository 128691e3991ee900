// Places and tokens that come with a call, held against how many there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe::ort {

// Throws OpError unless each of `slot` is -1 or below `places`.
void check_slots(const int32_t* slot, size_t pairs, size_t places);

// Throws OpError unless each of `src` is -1 or below `tokens`.
void check_sources(const int32_t* src, size_t places, size_t tokens);

}  // namespace vmoe::ort
