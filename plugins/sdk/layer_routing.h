// Where a MoE layer sent its tokens: what a graph outputs of each layer, and what callers get of it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// A layer as the C API gives it, but for its name, and the memory that this points into.
struct LayerRouting {
  std::string name;
  vmoe_layer_routing routing = VMOE_LAYER_ROUTING_INIT;
  std::vector<std::vector<unsigned char>> values;
};

// The outputs that say where the tokens went, layer by layer, of a graph that can merge some or not; none for a dense
// ViT.
std::vector<std::pair<std::string, Port>> layer_ports(const Manifest& manifest, bool merges);

// Reads the values of these outputs. Throws VMOE_RUNTIME_ERROR: an output has another shape than the manifest and the
// other outputs say, or names an expert or a token that isn't there.
std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
