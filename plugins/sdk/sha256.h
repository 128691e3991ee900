// SHA-256 (FIPS 180-4). Uses the processor's SHA instructions if it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace vmoe::sdk {

struct Sha256Method {
  const char* name;  // "sha-ni", "armv8" or "portable"
  // Updates the eight words of `state` with `count` blocks of 64 bytes each.
  void (*add_blocks)(uint32_t* state, const unsigned char* blocks, size_t count);
};

// Returns the methods that this processor supports, the fastest first.
std::vector<Sha256Method> sha256_methods();

// Returns the SHA-256 of all data that `read` provides, as 64 lower-case hex digits. read(buffer, size) must write
// `size` bytes to the buffer, and may write fewer only at the end of the data. It returns the number of bytes that it
// wrote. If no `method` is passed, the fastest method is used.
std::string sha256(const std::function<size_t(char*, size_t)>& read, const Sha256Method& method);
std::string sha256(const std::function<size_t(char*, size_t)>& read);

}  // namespace vmoe::sdk
