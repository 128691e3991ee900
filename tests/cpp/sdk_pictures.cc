// Prepares pictures with the SDK's own code, always watched for what odd sizes could make it do.
//
// stdin: size as uint32 and bytes of a manifest; height, width, channels and EXIF orientation as int64 and the pixels;
// again and again.
// stdout: 0 as uint8, size as uint32 and bytes of the image; or 1, and size and text of the sentence that refuses it.
#include <cstdint>
#include <iostream>
#include <string>

#include "sdk/error.h"
#include "sdk/images.h"
#include "sdk/manifest.h"

namespace {

template <typename T>
T read() {
  T value{};
  std::cin.read(reinterpret_cast<char*>(&value), sizeof(value));
  return value;
}

std::string read_bytes(size_t size) {
  std::string bytes(size, '\0');
  std::cin.read(bytes.data(), static_cast<std::streamsize>(size));
  return bytes;
}

void answer(uint8_t verdict, const std::string& bytes) {
  const auto size = static_cast<uint32_t>(bytes.size());
  std::cout.put(static_cast<char>(verdict));
  std::cout.write(reinterpret_cast<const char*>(&size), sizeof(size));
  std::cout.write(bytes.data(), static_cast<std::streamsize>(size));
}

std::string prepared(const std::string& text, const vmoe_picture& picture) {
  const auto manifest = vmoe::sdk::parse_manifest(text);
  const vmoe_info& info = manifest.info;
  const size_t item = info.input_dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
  std::string image(static_cast<size_t>(info.height * info.width * info.channels) * item, '\0');
  vmoe::sdk::prepare_image(picture, manifest, image.data(), image.size());
  return image;
}

}  // namespace

int main() {
  while (std::cin.peek() != EOF) {
    const std::string text = read_bytes(read<uint32_t>());
    vmoe_picture picture = VMOE_PICTURE_INIT;
    picture.height = read<int64_t>();
    picture.width = read<int64_t>();
    picture.channels = read<int64_t>();
    picture.orientation = static_cast<int32_t>(read<int64_t>());
    picture.data_bytes = static_cast<size_t>(picture.height * picture.width * picture.channels);
    const std::string pixels = read_bytes(picture.data_bytes);
    picture.data = reinterpret_cast<const uint8_t*>(pixels.data());
    try {
      answer(0, prepared(text, picture));
    } catch (const vmoe::sdk::Error& error) {
      answer(1, error.what());
    }
  }
  return 0;
}
