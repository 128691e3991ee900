// Turns a caller's images into the batch that a graph takes.
#pragma once

#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// dtype[N,H,W,C] for the graph input `image`; refers to the caller's data, or to `scaled`.
struct Batch {
  InputTensor image;
  std::vector<float> scaled;
};

// Throws VMOE_IMAGE_ERROR: the model can't be run with so many images.
void check_count(int64_t count, const Manifest& manifest);

// Throws VMOE_IMAGE_ERROR, naming what was given and what is needed: shape, dtype, number of images or bytes, values.
void check_images(const vmoe_images& images, const Manifest& manifest);

// The same checks come first.
Batch make_batch(const vmoe_images& images, const Manifest& manifest);

// See vmoe_engine_prepare_image. Throws VMOE_IMAGE_ERROR, or VMOE_ARGUMENT_ERROR where the memory doesn't suit.
void prepare_image(const vmoe_picture& picture, const Manifest& manifest, void* image, size_t image_bytes);

}  // namespace vmoe::sdk
