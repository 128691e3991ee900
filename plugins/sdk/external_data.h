// Finds the files that a runtime would open for an ONNX graph. Reads the graph's bytes directly, without the onnx
// library.
//
// A runtime opens every external-data file that a graph refers to. Bundles may come from untrusted sources, so every
// file name is checked before the graph is passed to a runtime.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmoe::sdk {

// The external data of one tensor: the file name as written in the graph, and the offset and length in bytes. If the
// graph omits the offset or the length, that value is 0.
struct ExternalData {
  std::string location;
  int64_t offset = 0;
  int64_t length = 0;
};

// Returns every external-data reference in a serialized ONNX model.
//
// Throws VMOE_BUNDLE_ERROR, "not a readable ONNX model (reason)", if the bytes can't be read, or if the calls between
// functions are more than one level deep.
std::vector<ExternalData> external_data(std::string_view graph);

}  // namespace vmoe::sdk
