// SHA-256 of data that arrives in pieces.
#ifndef VMOE_SDK_SHA256_H_
#define VMOE_SDK_SHA256_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "sdk/sha256_blocks.h"

namespace vmoe::sdk {

class Sha256 {
 public:
  // In the fastest way of this processor, or in the one that is given.
  Sha256();
  explicit Sha256(const Sha256Way& way) : way_(way) {}

  void update(const void* data, size_t size);

  // 64 lower-case hex digits; call once.
  std::string hex();

 private:
  Sha256Way way_;
  // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t bytes_ = 0;
  unsigned char rest_[kSha256BlockBytes];  // bytes_ % kSha256BlockBytes bytes that no block was made of yet
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_SHA256_H_
