// Resizes pictures as Pillow's Image.resize does, to the grey level, and holds no more of one than a few rows.
#ifndef VMOE_SDK_PILLOW_RESAMPLING_H_
#define VMOE_SDK_PILLOW_RESAMPLING_H_

#include "sdk/preprocessing.h"
#include "sdk/resampling.h"

namespace vmoe::sdk {

// As resample, for Method::kPillowBilinear and Method::kPillowBicubic; the values are whole.
void resample_as_pillow(const Pixels& pixels, const Geometry& geometry, const TakeRow& take);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_PILLOW_RESAMPLING_H_
