// Whether a loaded graph is the one that the manifest describes: its inputs and outputs, as ONNX Runtime reports them.
//
// A manifest that contradicts a graph would be noticed in the first call, or never.
#pragma once

#include <string>

#include "sdk/manifest.h"
#include "sdk/session.h"

namespace vmoe::sdk {

// graph: its path, for people; `merges` says whether it is one that can merge tokens. Throws VMOE_BUNDLE_ERROR, naming
// the graph and what differs.
void check_interface(const std::string& graph, const Session& session, const Manifest& manifest, bool merges);

}  // namespace vmoe::sdk
