// Where a MoE layer sent its tokens: what a graph outputs of each layer, and what callers get of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// As vmoe_layer_routing; empty where the kind has no such thing.
struct LayerRouting {
  std::string layer;
  RoutingKind kind;
  int64_t groups = 0, tokens = 0, choices = 0;  // G, S, K
  int64_t experts = 0;                          // E
  int64_t group_images = 0;                     // images of a group, where tokens can be merged
  std::vector<int32_t> expert;                  // [G,S,K]
  std::vector<uint8_t> kept;                    // [G,S,K]
  std::vector<float> weight;                    // [G,S,K]
  std::vector<float> dispatch, combine;         // [G,S,E,P]
  std::vector<int32_t> token;                   // [N,T] where tokens can be merged
};

// The outputs that say where the tokens went, layer by layer, of a graph that can merge some or not; none for a dense
// ViT.
std::vector<std::string> routing_outputs(const Manifest& manifest, bool merges);

// Their types and shapes.
Ports layer_ports(const Manifest& manifest, bool merges);

// Reads the values of these outputs. Throws VMOE_RUNTIME_ERROR: an output has another dtype or shape than the kind
// says.
std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
