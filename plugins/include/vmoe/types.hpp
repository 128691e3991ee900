// The inputs and results of an engine's calls, as plain C++ values. engine.h explains the letters in shapes.
#ifndef VMOE_TYPES_HPP_
#define VMOE_TYPES_HPP_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "vmoe/engine.h"
#include "vmoe/settings.hpp"

namespace vmoe {

struct LoadOptions {
  int threads = 0;          // threads per call; 0 for the default: see vmoe_load_options
  bool verify = true;       // check every file's SHA-256 against the bundle's manifest
  std::string profile;      // the profile for calls that pass no setting; if empty, the first stored profile
  std::string onnxruntime;  // path of the ONNX Runtime library; if empty, see vmoe_load_options
  bool spin = false;        // let threads spin after a call: see vmoe_load_options
};

// A batch of images: a contiguous array dtype[N,H,W,C], which this struct does not own. The values are float32 in
// [-1, 1] or uint8 in 0..255.
struct Images {
  const void* data = nullptr;
  vmoe_dtype dtype = VMOE_FLOAT32;
  int64_t count = 0, height = 0, width = 0, channels = 0;

  static Images float32(const float* data, int64_t count, int64_t height, int64_t width, int64_t channels) {
    return {data, VMOE_FLOAT32, count, height, width, channels};
  }
  static Images uint8(const uint8_t* data, int64_t count, int64_t height, int64_t width, int64_t channels) {
    return {data, VMOE_UINT8, count, height, width, channels};
  }

  // The size of the data in bytes.
  size_t bytes() const {
    return static_cast<size_t>(count) * static_cast<size_t>(height) * static_cast<size_t>(width) *
           static_cast<size_t>(channels) * (dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float));
  }
};

// One decoded picture of any size: a contiguous array uint8[height,width,channels], which this struct does not own. See
// vmoe_picture.
struct Picture {
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0, channels = 0;
  int32_t orientation = 0;
};

// The numbers needed to find a token of a batch in a LayerRouting. Tokens are ordered by image, and within an image by
// their position. Each token has one entry per member of an ensemble of experts (E3).
struct PatchGrid {
  int64_t images = 0;        // N
  int64_t members = 1;       // M
  int64_t rows = 0;          // h; 0 if unknown
  int64_t columns = 0;       // w
  int32_t front_tokens = 0;  // before the patches
};

// How one MoE layer routed its tokens. Fields that the routing kind does not use are empty.
struct LayerRouting {
  std::string layer;                            // such as "encoderblock_1"
  int64_t groups = 0, tokens = 0, choices = 0;  // G, S and K; with expert choice, K is E
  std::vector<float> weight;  // [G,S,K], top-k and expert choice: raw gate of each choice, even if dropped
  vmoe_routing_kind kind = VMOE_TOP_K;
  std::vector<int32_t> expert;  // [G,S,K], top-k: expert of each choice, even if dropped
  std::vector<uint8_t> kept;    // [G,S,K], top-k and expert choice: 1 if the choice was computed, 0 if it was dropped
  int64_t experts = 0;          // E of this layer
  int64_t slots = 0;            // P, Soft MoE
  std::vector<float> dispatch;  // [G,S,E,P] with P slots per expert, Soft MoE: share of each token in each slot's input
  std::vector<float> combine;   // [G,S,E,P] with P slots per expert, Soft MoE: share of a slot in each token's output
  PatchGrid grid;
  // [N,T]: for each token before merging, the index of the merged token that contains it. The indices start at 0 in
  // each image. Empty if the bundle can't merge tokens.
  std::vector<int32_t> token;

  // Returns uint8[N,h,w]. The value of a patch is 1 if at least one ensemble member kept a choice for it, and 0 if none
  // did. A merged patch has the value of its merged token. Tokens before the patches are omitted. Soft MoE drops
  // nothing, so all its values are 1. If the bundle does not specify how many patches an image has, returns an empty
  // vector.
  std::vector<uint8_t> patch_mask() const {
    const int64_t patches = grid.rows * grid.columns, before = grid.front_tokens;
    const int64_t all = before + patches,
                  left = token.empty() ? all : groups * tokens / std::max<int64_t>(1, grid.images);
    if (patches == 0 || groups * tokens != grid.images * left * grid.members) return {};
    if (!token.empty() && token.size() != static_cast<size_t>(grid.images * all)) return {};
    std::vector<uint8_t> mask(static_cast<size_t>(grid.images * patches), 1);
    if (kept.empty()) return mask;
    const int64_t size = grid.members * choices;  // per token
    for (int64_t i = 0; i < grid.images * patches; ++i) {
      const int64_t image = i / patches, place = before + i % patches;
      const int64_t now = token.empty() ? place : token[static_cast<size_t>(image * all + place)];
      const auto first = kept.begin() + (image * left + now) * size;
      mask[static_cast<size_t>(i)] = std::find(first, first + size, 1) != first + size ? 1 : 0;
    }
    return mask;
  }
};

// The name and the shape of one of a bundle's outputs. The shape is float32[N, rows, columns], or float32[N, columns]
// if `rows` is 0. See vmoe_output_shape.
struct OutputShape {
  std::string name;
  int64_t rows = 0, columns = 0;

  // The number of floats per image.
  int64_t floats() const { return std::max<int64_t>(rows, 1) * columns; }
};

// Information about a bundle and about the runtime that runs it.
struct Info {
  int64_t height = 0, width = 0, channels = 0;
  vmoe_dtype input_dtype = VMOE_FLOAT32;
  vmoe_output output = VMOE_LOGITS;
  int64_t output_size = 0;                    // number of floats per image in the first output
  int64_t batch_multiple = 1;                 // the number of images in a batch must be a multiple of this
  int64_t num_experts = 0, group_tokens = 0;  // E (the largest of all MoE layers) and S; both are 0 for a dense ViT
  std::string group;    // "image", "batch", a number of images or "tokens:S"; empty for a dense ViT
  std::string runtime;  // such as "ONNX Runtime 1.32.0 CPU, vmoe op library"
  bool uses_op_library = false;
  int threads = 0;                       // number of threads that the load options requested; 0 for the default
  vmoe_precision precision = VMOE_FP32;  // of the large products
  std::vector<std::string> class_names;  // one name per class; empty if the bundle has none
  std::vector<std::string> moe_layers;   // names of the MoE layers; empty for a dense ViT
  std::string preprocessing;             // steps in official notation, such as "resize_small(256)|central_crop(224)"
  int64_t ensemble_size = 1;             // M, the number of members of an ensemble of experts (E3)
  vmoe_routing_kind routing_kind = VMOE_DENSE;
  int32_t front_tokens = 0;                         // tokens before an image's patches: class token and registers
  int64_t patch_rows = 0, patch_columns = 0;        // how many rows and columns of patches an image has; 0 if unknown
  vmoe_probabilities probabilities = VMOE_SOFTMAX;  // how logits become probabilities
  std::vector<OutputShape> outputs;                 // the main `output` first, then block outputs, such as "layer3"

  // Returns the size in bytes of one image. The image has the shape [height, width, channels] and the type input_dtype.
  size_t image_bytes() const { return Images{nullptr, input_dtype, 1, height, width, channels}.bytes(); }

  // Returns the probabilities of all classes for one image. `logits` points to the output_size logits of the image.
  std::vector<double> probabilities_of(const float* logits) const {
    std::vector<double> shares(logits, logits + output_size);
    if (probabilities == VMOE_SIGMOID) {
      for (double& share : shares) share = 1 / (1 + std::exp(-share));
      return shares;
    }
    const double largest = *std::max_element(shares.begin(), shares.end());
    for (double& share : shares) share = std::exp(share - largest);
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= sum;
    return shares;
  }
};

}  // namespace vmoe

#endif  // VMOE_TYPES_HPP_
