// SHA-256 (FIPS 180-4), by the instructions of this processor where it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace vmoe::sdk {

struct Sha256Method {
  const char* name;  // "sha-ni", "armv8" or "portable"
  // Takes `count` blocks of 64 bytes into the eight words of `state`.
  void (*add_blocks)(uint32_t* state, const unsigned char* blocks, size_t count);
};

// Those of this processor, the fastest first.
std::vector<Sha256Method> sha256_methods();

// 64 lower-case hex digits of what `read` gives: as many bytes as it is called for, and fewer at the end only.
std::string sha256(const std::function<size_t(char*, size_t)>& read, const Sha256Method& method);
std::string sha256(const std::function<size_t(char*, size_t)>& read);

}  // namespace vmoe::sdk
