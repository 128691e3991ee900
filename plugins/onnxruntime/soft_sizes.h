// The sizes of Soft MoE as its kernels take them.
#pragma once

#include "core/soft_moe.h"
#include "ops/sizes.h"

namespace vmoe::ort {

inline SoftShape soft_shape_of(const ops::Sizes& sizes) {
  return {sizes['G'], sizes['S'], sizes['D'], sizes['E'], sizes['P']};
}

}  // namespace vmoe::ort
