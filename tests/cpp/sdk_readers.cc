// Reads manifests and graphs of any content with the SDK's own readers: one line of stdout for each.
//
// stdin: a kind, 'm' for a manifest or 'g' for a graph, the size as uint32, and the bytes, again and again.
// stdout: "ok" or "refused<tab>SENTENCE".
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>

#include "sdk/error.h"
#include "sdk/external_data.h"
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
      } else {
        vmoe::sdk::external_data(bytes);
      }
      std::printf("ok\n");
    } catch (const vmoe::sdk::Error& error) {
      std::printf("refused\t%s\n", vmoe::sdk::one_line(error.what()).c_str());
    }
  }
  return 0;
}
