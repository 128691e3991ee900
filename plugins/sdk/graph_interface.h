// Whether a graph is the one that the manifest describes: its inputs, its outputs and its weights, read without onnx.
//
// A manifest that contradicts a graph would be noticed in the first call, or never.
#ifndef VMOE_SDK_GRAPH_INTERFACE_H_
#define VMOE_SDK_GRAPH_INTERFACE_H_

#include <string>
#include <string_view>

#include "sdk/manifest.h"

namespace vmoe::sdk {

// A name of the official tree without the numbers of an expert's part and of a chunk of that.
std::string_view whole_name(std::string_view name);

// Refuses a graph whose inputs, outputs or weights are not what the manifest says; graphs that it gives no role pass.
// Throws VMOE_BUNDLE_ERROR, with the name of the graph and what differs.
void check_graph(const std::string& name, std::string_view graph, const Manifest& manifest);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_GRAPH_INTERFACE_H_
