// Hashes prefixes of standard input with every method that this processor supports. The arguments are the prefixes'
// lengths in bytes. Prints a line "METHOD BYTES DIGEST" for each method and length.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sdk/sha256.h"

int main(int count, char** arguments) {
  std::string data;
  char chunk[4096];
  while (const size_t read = std::fread(chunk, 1, sizeof(chunk), stdin)) data.append(chunk, read);
  for (const auto& method : vmoe::sdk::sha256_methods()) {
    for (int i = 1; i < count; ++i) {
      std::string_view rest = std::string_view(data).substr(0, std::strtoul(arguments[i], nullptr, 10));
      const size_t bytes = rest.size();
      const auto read = [&](char* buffer, size_t size) {
        const size_t taken = rest.copy(buffer, size);
        rest.remove_prefix(taken);
        return taken;
      };
      std::printf("%s %zu %s\n", method.name, bytes, vmoe::sdk::sha256(read, method).c_str());
    }
  }
  return 0;
}
