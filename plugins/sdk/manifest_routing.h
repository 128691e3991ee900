// What a manifest says of routing: the kind, its rules, and the profiles.
#ifndef VMOE_SDK_MANIFEST_ROUTING_H_
#define VMOE_SDK_MANIFEST_ROUTING_H_

#include <cstdint>

#include "sdk/json_fields.h"
#include "sdk/manifest.h"

namespace vmoe::sdk {

// Reads `routing` of a whole manifest: MoE layers, rules and group; there are none for a dense ViT. Needs the batch
// multiple. Throws VMOE_BUNDLE_ERROR.
void read_routing(const Json& raw, int64_t version, Manifest& manifest);

// Reads `profiles` of a whole manifest. Needs the routing. Throws VMOE_BUNDLE_ERROR: one isn't what its setting gives,
// or says what the kind doesn't have.
void read_profiles(const Json& raw, Manifest& manifest);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_MANIFEST_ROUTING_H_
