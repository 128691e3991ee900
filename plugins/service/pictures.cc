#include "pictures.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "picture_files.h"
#include "requests.h"

namespace {

// Limits the size of each block that stb_image allocates on this thread. Without the limit, a few bytes in a picture
// file could inflate to gigabytes, whatever size the file's header states.
struct PictureMemory {
  size_t most = 0;       // bytes
  bool refused = false;  // stb_image needed more
  bool missing = false;  // whether the system ran out of memory
};
thread_local PictureMemory memory;

void* resized(void* block, size_t size) {
  if (size > memory.most) {
    memory.refused = true;
    return nullptr;
  }
  void* resized_block = std::realloc(block, size);
  if (resized_block == nullptr) memory.missing = true;
  return resized_block;
}

}  // namespace

// These macros limit stb_image's memory, and enable only picture formats that begin with a signature.
#define STBI_MALLOC(size) resized(nullptr, size)
#define STBI_REALLOC_SIZED(block, old_size, size) resized(block, size)
#define STBI_FREE(block) std::free(block)
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#include <stb_image.h>

namespace {

// Converts a colour to grey as Pillow does.
uint8_t grey(const uint8_t* color) {
  return static_cast<uint8_t>(
      (color[0] * kGreyWeights[0] + color[1] * kGreyWeights[1] + color[2] * kGreyWeights[2] + 0x8000) >> 16);
}

const stbi_uc* bytes_of(std::string_view file) { return reinterpret_cast<const stbi_uc*>(file.data()); }

int size_of(std::string_view file) { return static_cast<int>(std::min(file.size(), size_t{INT_MAX})); }

}  // namespace

size_t pixels_of(std::string_view file) {
  memory = {size_t{1} << 20};
  int width = 0, height = 0, channels = 0;
  if (stbi_info_from_memory(bytes_of(file), size_of(file), &width, &height, &channels) == 0) {
    refuse_picture("it is neither PNG nor JPEG");
  }
  const size_t depth = stbi_is_16_bit_from_memory(bytes_of(file), size_of(file)) != 0 ? 2 : 1;
  const size_t pixels = static_cast<size_t>(width) * static_cast<size_t>(height) * depth;
  static_assert(kMostPixels == 33'554'432, "as the message says");
  if (pixels > kMostPixels) {
    throw RequestError("the picture has " + std::to_string(width) + "x" + std::to_string(height) +
                       " pixels, more than 33,554,432; scale it down");
  }
  return pixels;
}

int decode_picture(const vmoe::Engine& engine, std::string_view file, size_t pixels, uint8_t* image) {
  const int channels = static_cast<int>(engine.info().channels);
  if (channels != 1 && channels != 3) {
    throw RequestError("the model takes no pictures: it has " + std::to_string(channels) + " channels");
  }
  const bool has_background = engine.info().preprocessing.find("background(") != std::string::npos;
  const PictureFacts facts = check_picture(file, has_background);
  const int kept = channels + static_cast<int>(facts.is_transparent);
  // The limit allows for four channels, filters, padding and copies of parts of the file. It is enough even if
  // stb_image's buffers double in size as they grow.
  memory = {8 * pixels + 2 * file.size() + (size_t{8} << 20)};
  int width = 0, height = 0, own_channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> decoded(
      stbi_load_from_memory(bytes_of(file), size_of(file), &width, &height, &own_channels, channels == 1 ? 0 : kept),
      stbi_image_free);
  if (memory.missing) throw RequestError(kNoMemory);
  if (memory.refused) refuse_picture("its data are larger than its size says");
  if (decoded == nullptr) refuse_picture("it is damaged");
  for (int64_t i = 0; channels == 1 && own_channels > 1 && i < int64_t{width} * height; ++i) {
    const uint8_t* color = decoded.get() + own_channels * i;
    const uint8_t alpha = color[own_channels - 1];
    decoded.get()[kept * i] = own_channels == 2 ? color[0] : grey(color);
    if (facts.is_transparent) decoded.get()[kept * i + 1] = alpha;
  }
  auto prepared =
      engine.prepare_image({decoded.get(), height, width, kept, facts.orientation}, image, engine.info().image_bytes());
  if (!prepared) throw RequestError(prepared.error());
  return facts.orientation;
}
