#include "sdk/weight_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sdk/error.h"
#include "sdk/graph_interface.h"
#include "sdk/manifest.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kChunkScales = size_t{1} << 18;  // they are few, but a bundle may say otherwise

bool are_scales(std::string_view name) {
  constexpr std::string_view kLeaf = "kernel_scale";
  name = whole_name(name);
  const size_t slash = name.rfind('/');
  return name.substr(slash == std::string_view::npos ? 0 : slash + 1) == kLeaf;
}

bool is_scale(float value) { return std::isfinite(value) && value > 0; }

void check(const OwnFile& weights, const ExternalData& reference) {
  if (reference.length == 0 || reference.length % static_cast<int64_t>(sizeof(float)) != 0) {
    fail(VMOE_BUNDLE_ERROR, "a graph reads ", reference.length, " bytes of ", in_quotes(reference.name),
         ", which are no float32 scales");
  }
  const int64_t end = reference.offset + reference.length;
  for (int64_t offset = reference.offset; offset < end;) {
    const auto count = std::min(kChunkScales, static_cast<size_t>(end - offset) / sizeof(float));
    std::vector<float> values(count);
    const size_t bytes = weights.read_at(offset, reinterpret_cast<char*>(values.data()), count * sizeof(float));
    values.resize(bytes / sizeof(float));
    if (values.empty() || !std::all_of(values.begin(), values.end(), is_scale)) {
      fail(VMOE_BUNDLE_ERROR, kWeightsName, " holds a scale in ", in_quotes(reference.name),
           " that is no positive number; export the model again");
    }
    offset += static_cast<int64_t>(values.size() * sizeof(float));
  }
}

}  // namespace

void check_scales(const OwnFile& weights, const std::vector<ExternalData>& references) {
  for (const ExternalData& reference : references) {
    if (are_scales(reference.name)) check(weights, reference);
  }
}

}  // namespace vmoe::sdk
