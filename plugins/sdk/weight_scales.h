// Scales of int8 weights: one that is no positive number would make answers of NaN, zeros or the wrong sign.
#ifndef VMOE_SDK_WEIGHT_SCALES_H_
#define VMOE_SDK_WEIGHT_SCALES_H_

#include <string_view>
#include <vector>

#include "sdk/external_data.h"
#include "sdk/own_file.h"

namespace vmoe::sdk {

// Reads the scales among what graphs read, found by their names, float32 each.
// Throws VMOE_BUNDLE_ERROR, with the name of the scales: one is not a positive finite number.
void check_scales(const OwnFile& weights, const std::vector<ExternalData>& references);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_WEIGHT_SCALES_H_
