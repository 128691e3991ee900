// The work of SHA-256 (FIPS 180-4): blocks of 64 bytes into the state, in each way that a processor can do it.
#ifndef VMOE_SDK_SHA256_BLOCKS_H_
#define VMOE_SDK_SHA256_BLOCKS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmoe::sdk {

constexpr size_t kSha256BlockBytes = 64;

struct Sha256Way {
  const char* name;  // "sha-ni", "armv8" or "portable"
  // Takes `count` whole blocks into the eight words of `state`.
  void (*add_blocks)(uint32_t* state, const unsigned char* blocks, size_t count);
};

// The ways of this processor, the fastest first.
std::vector<Sha256Way> sha256_ways();

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_SHA256_BLOCKS_H_
