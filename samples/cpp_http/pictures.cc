#include "pictures.h"

#include <climits>
#include <memory>

// One file's memory is bounded, and its reason is a thread's own.
#define STBI_MAX_DIMENSIONS 32768
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#include <stb_image.h>

namespace {

constexpr int64_t kMostPixels = int64_t{1} << 26;

}  // namespace

ImageBatch PictureReader::read(const std::vector<std::string>& files) {
  const vmoe::Info& info = engine_.info();
  ImageBatch batch;
  batch.dtype = info.input_dtype;
  batch.count = static_cast<int64_t>(files.size());
  const auto values = static_cast<size_t>(info.height * info.width * info.channels);
  const size_t item = info.input_dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
  if (info.input_dtype == VMOE_UINT8) {
    batch.bytes.resize(files.size() * values);
  } else {
    batch.floats.resize(files.size() * values);
  }
  auto* next = info.input_dtype == VMOE_UINT8 ? batch.bytes.data() : reinterpret_cast<uint8_t*>(batch.floats.data());
  for (const std::string& file : files) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return free_ > 0; });
      --free_;
    }
    // Gives the turn back, whatever happens.
    const std::unique_ptr<PictureReader, void (*)(PictureReader*)> turn(this, [](PictureReader* reader) {
      const std::lock_guard lock(reader->mutex_);
      ++reader->free_;
      reader->changed_.notify_one();
    });
    read_one(file, next);
    next += values * item;
  }
  return batch;
}

void PictureReader::read_one(const std::string& file, void* image) const {
  const vmoe::Info& info = engine_.info();
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = file.size() > INT_MAX ? 0 : static_cast<int>(file.size());
  int width = 0, height = 0;
  if (stbi_info_from_memory(bytes, size, &width, &height, nullptr) == 0) {
    throw RequestError("the body is not a readable image: PNG, JPEG, BMP and GIF are");
  }
  if (int64_t{width} * height > kMostPixels) {
    throw RequestError("the picture has " + std::to_string(width) + "x" + std::to_string(height) +
                       " pixels, and at most 67,108,864 are taken");
  }
  const int channels = static_cast<int>(info.channels);
  if (channels > 4) throw RequestError("the model takes no pictures: it has " + std::to_string(channels) + " channels");
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes, size, &width, &height, nullptr, channels), stbi_image_free);
  if (pixels == nullptr) throw RequestError(std::string("the body is not a readable image: ") + stbi_failure_reason());
  auto prepared = engine_.prepare_image({pixels.get(), height, width, channels}, image, info.image_bytes());
  if (!prepared) throw RequestError(prepared.error().message);
}
