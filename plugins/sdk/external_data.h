// Which files an ONNX graph would open, read from its bytes without onnx.
//
// A runtime opens whatever external-data location a graph names. A bundle may come from anywhere, so every location is
// checked before any runtime sees the graph.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmoe::sdk {

// Where the data of one tensor lies: a file name as written in the graph, offset and length in bytes (0 if not given).
struct ExternalData {
  std::string location;
  int64_t offset = 0;
  int64_t length = 0;
};

// Every external-data reference of a serialized ONNX model, of which no function calls one that calls another.
// Throws VMOE_BUNDLE_ERROR, "not a readable ONNX model (why)".
std::vector<ExternalData> external_data(std::string_view graph);

}  // namespace vmoe::sdk
