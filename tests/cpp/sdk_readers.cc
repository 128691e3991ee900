// Reads manifests, graphs and bundles of any content with the SDK's own readers: one line of stdout for each.
//
// stdin: a kind, the size as uint32, and the bytes, again and again. Kinds are 'm' for a manifest; 'g' for a graph,
// with the size of its manifest as uint32 and the manifest before it; 'n' for the name of a profile of a model that may
// store none of that name, with a manifest before it, too; and 'b' for the path of a bundle, of which all is checked
// that is checked before a runtime sees it. stdout: "ok" or "refused<tab>SENTENCE"; "ok<tab>PROFILE" for a name.
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
#include "sdk/graph_interface.h"
#include "sdk/manifest.h"

namespace {

using vmoe::sdk::Manifest;
using vmoe::sdk::Profile;

// A manifest, and what stands behind it.
struct Pair {
  Manifest manifest;
  std::string rest;
};

Pair read_pair(const std::string& bytes) {
  uint32_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof(size));
  return {vmoe::sdk::parse_manifest(bytes.substr(sizeof(size), size)), bytes.substr(sizeof(size) + size)};
}

// The name, both ratios, k, bpr, pool, max_experts and each layer's places; "none" where it names no profile.
std::string described(const std::optional<Profile>& profile) {
  if (!profile) return "none";
  std::string text = profile->name + " " + vmoe::sdk::shortest(profile->capacity_ratio) + " " +
                     vmoe::sdk::shortest(profile->effective_ratio) + " " + std::to_string(profile->k) + " " +
                     std::to_string(profile->bpr) + " " + std::to_string(profile->pool) + " " +
                     std::to_string(profile->max_experts);
  for (const int64_t places : profile->capacity) text += " " + std::to_string(places);
  return text;
}

// What is to be printed of it.
std::string read(char kind, const std::string& bytes) {
  switch (kind) {
    case 'm': vmoe::sdk::parse_manifest(bytes); return "ok";
    case 'b': vmoe::sdk::Bundle::open(bytes, true).verify_weights(); return "ok";
    case 'n': {
      const Pair pair = read_pair(bytes);
      return "ok\t" + described(pair.manifest.rules->named_profile(pair.rest));
    }
    default: {
      const Pair pair = read_pair(bytes);
      vmoe::sdk::external_data(pair.rest);
      vmoe::sdk::check_graph(vmoe::sdk::kCanonicalGraph, pair.rest, pair.manifest);
      return "ok";
    }
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
