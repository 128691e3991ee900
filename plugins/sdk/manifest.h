// The manifest of a bundle. Every value in it is checked before it is used.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/generated/bundle_rules.h"
#include "sdk/preprocessing.h"
#include "sdk/routing_rules.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// The SHA-256 (hex) and size in bytes of one file of the bundle.
struct FileRecord {
  std::string sha256;
  int64_t size = 0;
};

// A graph output that does not report routing.
struct GraphOutput {
  std::string name;
  std::vector<int64_t> shape;  // shape per image: [size]; [M, size] for "members"; [tokens, size] for "tokens"

  int64_t floats() const;  // per image
};

struct Manifest {
  vmoe_info info{};                  // model information as in the C API, but without strings and list lengths
  Preprocessing preprocessing;       // how to convert a picture of any size to an image
  std::vector<GraphOutput> outputs;  // first the output that `info` describes, then block outputs such as "layer3"
  RoutingRules rules;
  std::vector<std::string> moe_layers;      // such as "encoderblock_1"; empty for a dense ViT
  std::string group;                        // "image", "batch", a number of images or "tokens:S"; empty for a dense ViT
  std::vector<Profile> profiles;            // in export order; the first is the default profile
  std::vector<std::string> class_names;     // one name per class; empty if the bundle has none
  std::map<std::string, FileRecord> files;  // every file of the bundle except the manifest

  // Returns the name of the first output: "logits", "members", "features" or "tokens".
  const std::string& output_name() const { return outputs.front().name; }

  // Returns the output with this name. Throws VMOE_ARGUMENT_ERROR if no output has this name.
  const GraphOutput& find_output(std::string_view name) const;

  // Returns the stored profile with this name, or null if no profile has this name.
  const Profile* find_profile(std::string_view name) const;
};

// Returns whether a file in a bundle is a graph. Checks only the file's name.
bool is_graph(std::string_view file);

// Reads a manifest. Throws VMOE_BUNDLE_ERROR if the text is not JSON or the manifest has another format version or is
// inconsistent.
Manifest parse_manifest(std::string_view text);

}  // namespace vmoe::sdk
