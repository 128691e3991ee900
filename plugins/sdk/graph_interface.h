// Checks that a loaded graph has the inputs and outputs that the manifest describes. ONNX Runtime reports which inputs
// and outputs the graph has.
//
// Without this check, a manifest that contradicts its graph would be noticed only in the first call, or never.
#pragma once

#include <string>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// Checks a graph's inputs and outputs. `graph` is the path that messages give for the graph. `merges` is whether the
// graph can merge tokens.
//
// Throws VMOE_BUNDLE_ERROR if they differ from the manifest. The message gives the path and describes the difference.
void check_interface(const std::string& graph, const Session& session, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
