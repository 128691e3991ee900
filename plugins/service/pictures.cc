#include "pictures.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

constexpr int64_t kMostPixels = int64_t{1} << 26;

// What stb_image may ask for at once while this thread decodes a picture: a few bytes may inflate
// to gigabytes, whatever size their header says.
struct PictureMemory {
  size_t most = 0;       // bytes
  bool refused = false;  // more was requested
  bool missing = false;  // the system has no more
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

// Only formats that begin with a mark of theirs are read.
#define STBI_MALLOC(size) resized(nullptr, size)
#define STBI_REALLOC_SIZED(block, old_size, size) resized(block, size)
#define STBI_FREE(block) std::free(block)
#define STBI_MAX_DIMENSIONS 32768
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#include <stb_image.h>

namespace {

[[noreturn]] void refuse(const std::string& why) { throw RequestError("the body is not a readable image: " + why); }

// A file as stb_image reads it, and whether it wanted more than there is: it makes grey pixels of what is missing.
struct PictureFile {
  std::string_view rest;
  bool ended = false;

  std::string_view take(int size) {
    const std::string_view part = rest.substr(0, static_cast<size_t>(size));
    rest.remove_prefix(part.size());
    return part;
  }
};

const stbi_io_callbacks kReadFile = {
    [](void* user, char* data, int size) {
      auto& file = *static_cast<PictureFile*>(user);
      const std::string_view part = file.take(size);
      if (part.empty()) file.ended = true;
      std::memcpy(data, part.data(), part.size());
      return static_cast<int>(part.size());
    },
    [](void* user, int size) { static_cast<PictureFile*>(user)->take(size); },
    [](void* user) { return static_cast<PictureFile*>(user)->rest.empty() ? 1 : 0; },
};

// Bytes that a picture of this size needs at once at most: of rows with their filters, in blocks of 32x32, twice where
// the decoder can't know how many.
size_t most_bytes(int width, int height, int channels, bool is_16_bit) {
  const size_t pixels = static_cast<size_t>(width + 32) * static_cast<size_t>(height + 32);
  return pixels * std::max<size_t>(4, 2 * static_cast<size_t>(channels) * (is_16_bit ? 2 : 1));
}

void read_picture(const vmoe::Engine& engine, std::string_view file, uint8_t* image) {
  const vmoe::Info& info = engine.info();
  const int channels = static_cast<int>(info.channels);
  if (channels > 4) throw RequestError("the model takes no pictures: it has " + std::to_string(channels) + " channels");
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = static_cast<int>(std::min(file.size(), size_t{INT_MAX}));
  // Beside the pixels, copies of parts of the file, in buffers that double.
  memory = {2 * file.size() + (size_t{1} << 20)};
  int width = 0, height = 0, own_channels = 0;
  if (stbi_info_from_memory(bytes, size, &width, &height, &own_channels) == 0) refuse("PNG, JPEG, BMP and GIF are");
  if (int64_t{width} * height > kMostPixels) {
    throw RequestError("the picture has " + std::to_string(width) + "x" + std::to_string(height) +
                       " pixels, and at most 67,108,864 are taken");
  }
  const bool is_16_bit = stbi_is_16_bit_from_memory(bytes, size) != 0;
  memory.most += most_bytes(width, height, std::max(own_channels, channels), is_16_bit);
  PictureFile opened{file};
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_callbacks(&kReadFile, &opened, &width, &height, nullptr, channels), stbi_image_free);
  if (memory.missing) throw RequestError("there is not enough memory for this request", 503);
  if (memory.refused) refuse("its data are larger than its size says");
  if (opened.ended) refuse("it ends too early");
  if (pixels == nullptr) refuse("it is damaged");
  auto prepared = engine.prepare_image({pixels.get(), height, width, channels}, image, info.image_bytes());
  if (!prepared) throw RequestError(prepared.error());
}

}  // namespace

ImageBatch read_pictures(const vmoe::Engine& engine, const std::vector<std::string>& files) {
  const size_t size = engine.info().image_bytes();
  ImageBatch batch{engine.info().input_dtype, static_cast<int64_t>(files.size()), {}};
  batch.data.resize(files.size() * size);
  for (size_t i = 0; i < files.size(); ++i) read_picture(engine, files[i], batch.data.data() + i * size);
  return batch;
}
