// A MoE layer's routing: the graph outputs that report it, and the C API struct that holds it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// A layer's routing as in the C API. The layer's name is stored in `name`. `values` owns the memory that `routing`
// points to.
struct LayerRouting {
  std::string name;
  vmoe_layer_routing routing = VMOE_LAYER_ROUTING_INIT;
  std::vector<std::vector<unsigned char>> values;
};

// Returns the names and types of a graph's routing outputs, layer by layer. The list is empty for a dense ViT. `merges`
// is whether the graph can merge tokens.
std::vector<std::pair<std::string, Port>> layer_ports(const Manifest& manifest, bool merges);

// Reads the routing of each layer from the outputs that layer_ports lists. Throws VMOE_RUNTIME_ERROR in two cases: the
// shape of an output contradicts the manifest or another output, or a value is the index of an expert or token that
// does not exist.
std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
