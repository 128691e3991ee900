#include "pictures.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

constexpr int64_t kMostPixels = int64_t{1} << 26;

// What stb_image may ask for at once while this thread decodes a picture, and what came of it: a few bytes may inflate
// to gigabytes, whatever size their header says.
struct PictureMemory {
  size_t most = 0;       // bytes
  bool refused = false;  // it asked for more
  bool missing = false;  // there is no more
};
thread_local PictureMemory memory;

void* resized(void* block, size_t size) {
  if (size > memory.most) {
    memory.refused = true;
    return nullptr;
  }
  void* found = std::realloc(block, size);
  if (found == nullptr) memory.missing = true;
  return found;
}

}  // namespace

// One file's memory is bounded, and its reason is a thread's own. Only formats that begin with a mark of theirs are
// read.
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
class PictureFile {
 public:
  explicit PictureFile(std::string_view bytes) : rest_(bytes) {}

  bool ended() const { return ended_; }

  stbi_uc* decode(int* width, int* height, int channels) {
    const stbi_io_callbacks callbacks = {read, skip, at_end};
    return stbi_load_from_callbacks(&callbacks, this, width, height, nullptr, channels);
  }

 private:
  static PictureFile& self(void* user) { return *static_cast<PictureFile*>(user); }

  static int read(void* user, char* data, int size) {
    PictureFile& file = self(user);
    const size_t count = std::min(file.rest_.size(), static_cast<size_t>(size));
    if (count == 0) file.ended_ = true;
    std::memcpy(data, file.rest_.data(), count);
    file.rest_.remove_prefix(count);
    return static_cast<int>(count);
  }

  static void skip(void* user, int size) {
    PictureFile& file = self(user);
    file.rest_.remove_prefix(std::min(file.rest_.size(), static_cast<size_t>(size)));
  }

  static int at_end(void* user) { return self(user).rest_.empty() ? 1 : 0; }

  std::string_view rest_;
  bool ended_ = false;
};

// Bytes that a picture of this size needs at once at most: of rows with their filters, in blocks of 32x32, twice where
// the decoder can't know how many.
size_t most_bytes(int width, int height, int channels, bool is_16_bit) {
  const size_t pixels = static_cast<size_t>(width + 32) * static_cast<size_t>(height + 32);
  return pixels * std::max<size_t>(4, 2 * static_cast<size_t>(channels) * (is_16_bit ? 2 : 1));
}

}  // namespace

ImageBatch PictureReader::read(const std::vector<std::string_view>& files) {
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
  for (const std::string_view file : files) {
    const Turns::Turn turn(turns_);
    read_one(file, next);
    next += values * item;
  }
  return batch;
}

void PictureReader::read_one(std::string_view file, void* image) const {
  const vmoe::Info& info = engine_.info();
  const int channels = static_cast<int>(info.channels);
  if (channels > 4) throw RequestError("the model takes no pictures: it has " + std::to_string(channels) + " channels");
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = file.size() > INT_MAX ? 0 : static_cast<int>(file.size());
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
  PictureFile opened(file);
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(opened.decode(&width, &height, channels), stbi_image_free);
  if (memory.missing) throw RequestError("there is not enough memory for this request", 503);
  if (memory.refused) refuse("its data are larger than its size says");
  if (opened.ended()) refuse("it ends too early");
  if (pixels == nullptr) {
    const std::string reason = stbi_failure_reason();
    refuse(reason.empty() ? "it is damaged" : reason);
  }
  auto prepared = engine_.prepare_image({pixels.get(), height, width, channels}, image, info.image_bytes());
  if (!prepared) throw RequestError(prepared.error());
}
