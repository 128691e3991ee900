// Checks that a loaded graph has the inputs and outputs that the manifest describes, as ONNX Runtime reports them.
//
// Otherwise a manifest that contradicts its graph would be noticed only in the first call, or never.
#pragma once

#include <string>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// graph: its path, for messages.
// merges: whether it is a graph that can merge tokens.
//
// Throws VMOE_BUNDLE_ERROR with the graph and the difference.
void check_interface(const std::string& graph, const Session& session, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
