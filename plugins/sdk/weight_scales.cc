#include "sdk/weight_scales.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "sdk/error.h"
#include "sdk/graph_interface.h"
#include "sdk/manifest.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kChunkScales = size_t{1} << 18;  // they are few, but a bundle may say otherwise
constexpr int64_t kScaleBytes = sizeof(float);

bool are_scales(std::string_view name) {
  constexpr std::string_view kLeaf = "kernel_scale";
  name = whole_name(name);
  const size_t slash = name.rfind('/');
  return name.substr(slash == std::string_view::npos ? 0 : slash + 1) == kLeaf;
}

bool is_scale(float value) { return std::isfinite(value) && value > 0; }

void check_length(const ExternalData& reference) {
  if (reference.length == 0 || reference.length % kScaleBytes != 0) {
    fail(VMOE_BUNDLE_ERROR, "a graph reads ", reference.length, " bytes of ", in_quotes(reference.name),
         ", which are no float32 scales");
  }
}

void check_values(const OwnFile& weights, const std::string& name, int64_t offset, int64_t end) {
  while (offset < end) {
    const auto count = std::min(kChunkScales, static_cast<size_t>((end - offset) / kScaleBytes));
    std::vector<float> values(count);
    const size_t bytes = weights.read_at(offset, reinterpret_cast<char*>(values.data()), count * sizeof(float));
    values.resize(bytes / sizeof(float));
    if (values.empty() || !std::all_of(values.begin(), values.end(), is_scale)) {
      fail(VMOE_BUNDLE_ERROR, kWeightsName, " holds a scale in ", in_quotes(name),
           " that is no positive number; export the model again");
    }
    offset += static_cast<int64_t>(values.size()) * kScaleBytes;
  }
}

}  // namespace

void check_scales(const OwnFile& weights, const std::vector<ExternalData>& references) {
  std::vector<const ExternalData*> scales;
  for (const ExternalData& reference : references) {
    if (!are_scales(reference.name)) continue;
    check_length(reference);
    scales.push_back(&reference);
  }
  // Graphs read the same scales, and a bundle may say so a million times: each is read once where it is aligned alike.
  const auto place = [](const ExternalData* s) { return std::pair(s->offset % kScaleBytes, s->offset); };
  std::sort(scales.begin(), scales.end(), [&](auto* one, auto* other) { return place(one) < place(other); });
  int64_t alignment = 0, checked = 0;
  for (const ExternalData* reference : scales) {
    if (reference->offset % kScaleBytes != alignment) checked = 0;
    alignment = reference->offset % kScaleBytes;
    const int64_t end = reference->offset + reference->length;
    check_values(weights, reference->name, std::max(reference->offset, checked), end);
    checked = std::max(checked, end);
  }
}

}  // namespace vmoe::sdk
