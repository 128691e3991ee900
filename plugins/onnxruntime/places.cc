#include "onnxruntime/places.h"

#include <string>

#include "ops/op_error.h"

namespace vmoe::ort {

void check_slots(const int32_t* slot, size_t pairs, size_t places) {
  for (size_t pair = 0; pair < pairs; ++pair) {
    if (slot[pair] < -1 || slot[pair] >= static_cast<int64_t>(places)) {
      throw ops::OpError("slot has the place " + std::to_string(slot[pair]) + ", but there are " +
                         std::to_string(places) + " places");
    }
  }
}

void check_sources(const int32_t* src, size_t places, size_t tokens) {
  for (size_t place = 0; place < places; ++place) {
    if (src[place] < -1 || src[place] >= static_cast<int64_t>(tokens)) {
      throw ops::OpError("src has the token " + std::to_string(src[place]) + ", but x has " + std::to_string(tokens) +
                         " tokens");
    }
  }
}

}  // namespace vmoe::ort
