// What goes wrong inside the plugin, on its way to the boundary: nothing is thrown across it.
#pragma once

#include <stdexcept>

namespace vmoe::tensorrt {

// what() is the end of a sentence that begins with the op's name.
class OpError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace vmoe::tensorrt
