// How the ops refuse what they are given.
#pragma once

#include <stdexcept>

namespace vmoe::ops {

// A sentence for the user, or the end of one that begins with the op's name.
class OpError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace vmoe::ops
