// Finds the files that an ONNX graph would open. Reads them from the graph's bytes, without the onnx library.
//
// A runtime opens any external-data location that a graph names. Bundles may come from untrusted sources, so every
// location is checked before a runtime sees the graph.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmoe::sdk {

// The external data of one tensor: the file name in the graph, and offset and length in bytes (0 if not given).
struct ExternalData {
  std::string location;
  int64_t offset = 0;
  int64_t length = 0;
};

// Returns every external-data reference of a serialized ONNX model.
//
// Throws VMOE_BUNDLE_ERROR, "not a readable ONNX model (reason)", if the bytes can't be read, or if a function calls
// one that itself calls a function.
std::vector<ExternalData> external_data(std::string_view graph);

}  // namespace vmoe::sdk
