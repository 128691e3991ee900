// The manifest of a bundle: what it must say, and nothing believed that was not checked.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/generated/bundle_rules.h"
#include "sdk/preprocessing.h"
#include "sdk/profile.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// What the graph input `image` takes: dtype[N, height, width, channels].
struct InputSpec {
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t height = 0, width = 0, channels = 0;
};

// SHA-256 (hex) and size in bytes of one file of the bundle.
struct FileRecord {
  std::string sha256;
  int64_t size = 0;
};

// The patches of an image; 0 where a manifest's model description, which no reader insists on, doesn't say.
struct Patches {
  int64_t rows = 0, columns = 0;
  int32_t front_tokens = 0;  // stand before them
};

// An output of the graphs beside the routing.
struct GraphOutput {
  std::string name;
  std::vector<int64_t> shape;  // of an image: [size], or [M, size] for members and [tokens, size] for tokens

  int64_t floats() const;  // of an image
};

struct Manifest {
  InputSpec input;
  Patches patches;
  Preprocessing preprocessing;  // how a picture of another size becomes an image
  vmoe_output output = VMOE_LOGITS;
  int64_t output_size = 0;           // of the output's last dimension
  std::vector<GraphOutput> outputs;  // that one, then those of blocks, such as "layer3"
  vmoe_probabilities probabilities = VMOE_SOFTMAX;
  std::optional<RoutingRules> rules;        // none for a dense ViT that merges nothing
  std::vector<std::string> moe_layers;      // such as "encoderblock_1"; empty for a dense ViT
  std::string group;                        // "image", "batch", a number of images or "tokens:S"; empty for a dense ViT
  vmoe_precision precision = VMOE_FP32;     // of the large products
  int64_t batch_multiple = 1;               // batches must be a multiple of this many images
  std::vector<Profile> profiles;            // in the order of the export, the first the default; none in Soft MoE
  std::vector<std::string> class_names;     // output_size of them, or none
  std::map<std::string, FileRecord> files;  // every other file of the bundle

  // The name of the graph's output: "logits", "members", "features" or "tokens".
  const std::string& output_name() const { return outputs.front().name; }

  // How the model routes; VMOE_DENSE for a dense ViT.
  RoutingKind kind() const { return rules ? rules->kind : RoutingKind{}; }

  // M, the members of an ensemble of experts (E3); 1 for every other model.
  int64_t ensemble_size() const { return kind().ensemble_size; }

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
