// Converts a caller's images to a batch that a graph accepts. Also converts pictures of any size to images.
#pragma once

#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// A batch in the form of a graph input, dtype[N,H,W,C]. If the images had to be scaled, `image` points to `scaled`.
// Otherwise `image` points to the caller's data.
struct Batch {
  InputTensor image;
  std::vector<float> scaled;
};

// Throws VMOE_IMAGE_ERROR if the model can't run a batch of `count` images.
void check_count(int64_t count, const Manifest& manifest);

// Checks the images: their number, shape, dtype, size in bytes and values. If one of these is wrong, throws
// VMOE_IMAGE_ERROR. The message states what the caller passed and what the model requires. Throws VMOE_ARGUMENT_ERROR
// if the data is null or not aligned.
void check_images(const vmoe_images& images, const Manifest& manifest);

// Checks images as check_images does, and returns them as a batch.
Batch make_batch(const vmoe_images& images, const Manifest& manifest);

// Prepares an image: see vmoe_engine_prepare_image. Throws VMOE_IMAGE_ERROR if the picture can't be used. Throws
// VMOE_ARGUMENT_ERROR if the picture's or the image's memory is null, too small or not aligned.
void prepare_image(const vmoe_picture& picture, const Manifest& manifest, void* image, size_t image_bytes);

}  // namespace vmoe::sdk
