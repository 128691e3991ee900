// Reads manifests, graphs and bundles of any content with the SDK's own readers: one line of stdout for each.
//
// stdin: a kind, the size as uint32, and the bytes, again and again. Kinds are 'm' for a manifest, 'g' for a graph and
// 'b' for the path of a bundle, of which all is checked that is checked before a runtime sees it. stdout: "ok" or
// "refused<tab>SENTENCE".
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>

#include "sdk/bundle.h"
#include "sdk/error.h"
#include "sdk/external_data.h"
#include "sdk/graph_interface.h"
#include "sdk/manifest.h"

int main() {
  char kind = 0;
  while (std::cin.get(kind)) {
    uint32_t size = 0;
    std::cin.read(reinterpret_cast<char*>(&size), sizeof(size));
    std::string bytes(size, '\0');
    std::cin.read(bytes.data(), size);
    try {
      if (kind == 'm') {
        vmoe::sdk::parse_manifest(bytes);
      } else if (kind == 'b') {
        vmoe::sdk::Bundle::open(bytes, true).verify_weights();
      } else {
        uint32_t manifest_size = 0;
        std::memcpy(&manifest_size, bytes.data(), sizeof(manifest_size));
        const auto manifest = vmoe::sdk::parse_manifest(bytes.substr(sizeof(manifest_size), manifest_size));
        const std::string graph = bytes.substr(sizeof(manifest_size) + manifest_size);
        vmoe::sdk::external_data(graph);
        vmoe::sdk::check_graph(vmoe::sdk::kCanonicalGraph, graph, manifest);
      }
      std::printf("ok\n");
    } catch (const vmoe::sdk::Error& error) {
      std::printf("refused\t%s\n", vmoe::sdk::one_line(error.what()).c_str());
    }
  }
  return 0;
}
