// Reads arbitrary manifests, graphs and bundles, and prepares pictures of any size, with the SDK's own code. Prints one
// line to stdout for each input.
//
// stdin is a sequence of inputs. Each is a kind, the size as uint32, and the bytes. The kinds are:
// - 'm': a manifest;
// - 'g': a graph;
// - 'b': the path of a bundle, which gets all checks that come before a runtime loads it;
// - 'n': a manifest's size as uint32, the manifest, and the name of a profile;
// - 'p': a manifest's size as uint32, the manifest, and a picture: height, width, channels and EXIF orientation as
//   int64, and uint8 pixels.
// Each line of stdout is "ok" or "refused<tab>MESSAGE". For kind 'n', "ok" is followed by "<tab>PROFILE". For kind 'p',
// it is followed by "<tab>IMAGE" in hexadecimal.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>

#include "sdk/bundle.h"
#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/external_data.h"
#include "sdk/generated/setting_rows.h"
#include "sdk/images.h"
#include "sdk/manifest.h"

namespace {

using vmoe::sdk::Manifest;
using vmoe::sdk::Profile;

// Formats a profile: its name, its effective ratio, the value of every setting, and each layer's slots. If there is no
// profile, returns "none".
std::string described(const std::optional<Profile>& profile) {
  if (!profile) return "none";
  std::string text = profile->name + " " + vmoe::sdk::shortest(profile->effective_ratio);
  vmoe::sdk::for_each_setting([&](const auto& row, auto field, auto) {
    const auto value = profile->values.*field;
    text += " ";
    text += row.type == vmoe::sdk::SettingType::kRatio ? vmoe::sdk::shortest(static_cast<double>(value))
                                                       : std::to_string(static_cast<int64_t>(value));
  });
  for (const int64_t slots : profile->slots) text += " " + std::to_string(slots);
  return text;
}

// Prepares a picture for a model, and returns the resulting image in hexadecimal.
std::string prepared(const Manifest& manifest, const std::string& bytes) {
  int64_t numbers[4];
  std::memcpy(numbers, bytes.data(), sizeof(numbers));
  const std::string pixels =
      bytes.substr(sizeof(numbers));  // has exactly the size of the pixels, so that reads past the end are detected
  vmoe_picture picture = VMOE_PICTURE_INIT;
  picture.height = numbers[0];
  picture.width = numbers[1];
  picture.channels = numbers[2];
  picture.orientation = static_cast<int32_t>(numbers[3]);
  picture.data = reinterpret_cast<const uint8_t*>(pixels.data());
  picture.data_bytes = pixels.size();
  const vmoe_info& info = manifest.info;
  const size_t item = info.input_dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
  std::string image(static_cast<size_t>(info.height * info.width * info.channels) * item, '\0');
  vmoe::sdk::prepare_image(picture, manifest, image.data(), image.size());
  std::string text;
  for (const unsigned char byte : image) text += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
  return text;
}

// Reads one input and returns the text to print.
std::string read(char kind, const std::string& bytes) {
  switch (kind) {
    case 'm': vmoe::sdk::parse_manifest(bytes); return "ok";
    case 'b': vmoe::sdk::Bundle(bytes, true).verify_weights(); return "ok";
    case 'n':
    case 'p': {
      uint32_t size = 0;
      std::memcpy(&size, bytes.data(), sizeof(size));
      const auto manifest = vmoe::sdk::parse_manifest(bytes.substr(sizeof(size), size));
      const std::string rest = bytes.substr(sizeof(size) + size);
      return "ok\t" + (kind == 'n' ? described(manifest.rules.named_profile(rest)) : prepared(manifest, rest));
    }
    default: vmoe::sdk::external_data(bytes); return "ok";
  }
}

}  // namespace

int main() {
  char kind = 0;
  while (std::cin.get(kind)) {
    uint32_t size = 0;
    std::cin.read(reinterpret_cast<char*>(&size), sizeof(size));
    std::string bytes(size, '\0');
    std::cin.read(bytes.data(), size);
    try {
      std::printf("%s\n", read(kind, bytes).c_str());
    } catch (const vmoe::sdk::Error& error) {
      std::printf("refused\t%s\n", vmoe::sdk::one_line(error.what()).c_str());
    }
  }
  return 0;
}
