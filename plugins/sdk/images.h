// Converts a caller's images to a batch that a graph accepts, and pictures of any size to images.
#pragma once

#include <vector>

#include "sdk/manifest.h"
#include "sdk/session.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// A batch as a graph input, dtype[N,H,W,C]. `image` points to the caller's data, or to `scaled` if the images had to be
// scaled.
struct Batch {
  InputTensor image;
  std::vector<float> scaled;
};

// Throws VMOE_IMAGE_ERROR if the model can't run a batch of `count` images.
void check_count(int64_t count, const Manifest& manifest);

// Checks the number, shape, dtype, size in bytes and values of images. If one of these is wrong, throws
// VMOE_IMAGE_ERROR, whose message states what the caller passed and what the model requires. Throws VMOE_ARGUMENT_ERROR
// if the data is null or not aligned.
void check_images(const vmoe_images& images, const Manifest& manifest);

// Checks images as check_images does, and returns them as a batch.
Batch make_batch(const vmoe_images& images, const Manifest& manifest);

// Prepares an image: see vmoe_engine_prepare_image. Throws VMOE_IMAGE_ERROR if the picture can't be used, and
// VMOE_ARGUMENT_ERROR if the memory of the picture or image is null, too small or not aligned.
void prepare_image(const vmoe_picture& picture, const Manifest& manifest, void* image, size_t image_bytes);

}  // namespace vmoe::sdk
