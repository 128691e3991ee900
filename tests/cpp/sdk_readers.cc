// Reads manifests, graphs and bundles of any content with the SDK's own readers: one line of stdout for each.
//
// stdin: a kind, the size as uint32, and the bytes, again and again. Kinds are 'm' for a manifest; 'g' for a graph; 'n'
// for the name of a profile, with the size of a manifest as uint32 and the manifest before it; and 'b' for the path of
// a bundle, of which all is checked that is checked before a runtime sees it. stdout: "ok" or "refused<tab>SENTENCE";
// "ok<tab>PROFILE" for a name.
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
#include "sdk/manifest.h"

namespace {

using vmoe::sdk::Profile;

// The name, the effective ratio, the value of every setting, and each layer's slots; "none" where it names no profile.
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

// What is to be printed of it.
std::string read(char kind, const std::string& bytes) {
  switch (kind) {
    case 'm': vmoe::sdk::parse_manifest(bytes); return "ok";
    case 'b': vmoe::sdk::Bundle(bytes, true).verify_weights(); return "ok";
    case 'n': {
      uint32_t size = 0;
      std::memcpy(&size, bytes.data(), sizeof(size));
      const auto manifest = vmoe::sdk::parse_manifest(bytes.substr(sizeof(size), size));
      return "ok\t" + described(manifest.rules.named_profile(bytes.substr(sizeof(size) + size)));
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
