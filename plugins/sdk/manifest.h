// The manifest of a bundle: what it must say, and nothing believed that was not checked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/generated/bundle_rules.h"
#include "sdk/preprocessing.h"
#include "sdk/profile.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// SHA-256 (hex) and size in bytes of one file of the bundle.
struct FileRecord {
  std::string sha256;
  int64_t size = 0;
};

// An output of the graphs beside the routing.
struct GraphOutput {
  std::string name;
  std::vector<int64_t> shape;  // of an image: [size], or [M, size] for members and [tokens, size] for tokens

  int64_t floats() const;  // of an image
};

struct Manifest {
  vmoe_info info{};                  // as the C API gives it, but for texts and how many of each list there are
  Preprocessing preprocessing;       // how a picture of another size becomes an image
  std::vector<GraphOutput> outputs;  // that of `info`, then those of blocks, such as "layer3"
  RoutingRules rules;
  std::vector<std::string> moe_layers;      // such as "encoderblock_1"; empty for a dense ViT
  std::string group;                        // "image", "batch", a number of images or "tokens:S"; empty for a dense ViT
  std::vector<Profile> profiles;            // in the order of the export, the first the default; none in Soft MoE
  std::vector<std::string> class_names;     // one for each class, or none
  std::map<std::string, FileRecord> files;  // every other file of the bundle

  // The name of the graph's output: "logits", "members", "features" or "tokens".
  const std::string& output_name() const { return outputs.front().name; }

  // The output of that name. Throws VMOE_ARGUMENT_ERROR.
  const GraphOutput& find_output(std::string_view name) const;

  // The stored profile of that name, or null.
  const Profile* find_profile(std::string_view name) const;
};

// Whether a file is a graph, by its name.
bool is_graph(std::string_view file);

// Reads a manifest. Throws VMOE_BUNDLE_ERROR: it is not JSON, of another format version, or says something that can't
// be.
Manifest parse_manifest(std::string_view text);

}  // namespace vmoe::sdk
