// Checks that a loaded graph has the inputs and outputs that the manifest describes. ONNX Runtime reports what the
// graph has.
//
// Without this check, a manifest that contradicts its graph would be noticed only in the first call, or never.
#pragma once

#include <string>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// graph: the path of the graph, for messages.
// merges: whether the graph can merge tokens.
//
// Throws VMOE_BUNDLE_ERROR with a message that names the graph and describes the difference.
void check_interface(const std::string& graph, const Session& session, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
