#include "sdk/sha256.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#ifndef __APPLE__
#include <sys/auxv.h>
#endif
#endif

namespace vmoe::sdk {

namespace {

constexpr size_t kRounds = 64;
constexpr size_t kBlockBytes = 64;
constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr size_t kLengthBytes = 8;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr uint32_t kConstants[kRounds] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t rotated(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

uint32_t big_endian(const unsigned char* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | uint32_t{bytes[3]};
}

void add_block(uint32_t* state, const unsigned char* block) {
  uint32_t w[16];
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (size_t t = 0; t < kRounds; ++t) {
    uint32_t& word = w[t % 16];  // before the update, word t - 16 of the schedule
    if (t < 16) {
      word = big_endian(block + 4 * t);
    } else {
      const uint32_t near = w[(t - 2) % 16], far = w[(t - 15) % 16];
      word += (rotated(near, 17) ^ rotated(near, 19) ^ near >> 10) + w[(t - 7) % 16] +
              (rotated(far, 7) ^ rotated(far, 18) ^ far >> 3);
    }
    const uint32_t sum =
        h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + kConstants[t] + word;
    const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
    h = g;
    g = f;
    f = e;
    e = d + sum;
    d = c;
    c = b;
    b = a;
    a = sum + (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + majority;
  }
  const uint32_t added[8] = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state[i] += added[i];
}

void add_blocks(uint32_t* state, const unsigned char* blocks, size_t count) {
  for (; count > 0; --count, blocks += kBlockBytes) add_block(state, blocks);
}

#if defined(__x86_64__)

__attribute__((target("sha,sse4.1"))) void add_blocks_sha_ni(uint32_t* state, const unsigned char* blocks,
                                                             size_t count) {
  const __m128i to_big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  auto* const words = reinterpret_cast<__m128i*>(state);
  // The instructions expect the state in two registers, (f, e, b, a) and (h, g, d, c), with the lowest lane first.
  const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1b);
  __m128i feba = _mm_alignr_epi8(badc, hgfe, 8);
  __m128i hgdc = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; count > 0; --count, blocks += kBlockBytes) {
    const __m128i feba_before = feba, hgdc_before = hgdc;
    __m128i w[4];  // the last 16 words of the schedule
#pragma GCC unroll 16
    for (size_t group = 0; group < kRounds / 4; ++group) {
      __m128i& four = w[group % 4];
      if (group < 4) {
        four = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks) + group), to_big_endian);
      } else {
        const __m128i last = w[(group + 3) % 4];
        const __m128i seven_before = _mm_alignr_epi8(last, w[(group + 2) % 4], 4);
        four = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(four, w[(group + 1) % 4]), seven_before), last);
      }
      const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i*>(kConstants) + group);
      const __m128i sums = _mm_add_epi32(four, constants);
      hgdc = _mm_sha256rnds2_epu32(hgdc, feba, sums);
      feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(sums, 0x0e));
    }
    feba = _mm_add_epi32(feba, feba_before);
    hgdc = _mm_add_epi32(hgdc, hgdc_before);
  }
  const __m128i abef = _mm_shuffle_epi32(feba, 0x1b);
  const __m128i ghcd = _mm_shuffle_epi32(hgdc, 0xb1);
  _mm_storeu_si128(words, _mm_blend_epi16(abef, ghcd, 0xf0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(ghcd, abef, 8));
}

bool has_instructions() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kSse = 1U << 9 | 1U << 19;  // SSSE3, SSE4.1
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kSse) != kSse) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx >> 29 & 1) != 0;
}

constexpr Sha256Method kInstructions = {"sha-ni", add_blocks_sha_ni};

#elif defined(__aarch64__)

__attribute__((target("+sha2"))) void add_blocks_armv8(uint32_t* state, const unsigned char* blocks, size_t count) {
  uint32x4_t abcd = vld1q_u32(state);
  uint32x4_t efgh = vld1q_u32(state + 4);
  for (; count > 0; --count, blocks += kBlockBytes) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];  // the last 16 words of the schedule
#pragma GCC unroll 16
    for (size_t group = 0; group < kRounds / 4; ++group) {
      uint32x4_t& four = w[group % 4];
      if (group < 4) {
        four = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * group)));
      } else {
        four = vsha256su1q_u32(vsha256su0q_u32(four, w[(group + 1) % 4]), w[(group + 2) % 4], w[(group + 3) % 4]);
      }
      const uint32x4_t sums = vaddq_u32(four, vld1q_u32(kConstants + 4 * group));
      const uint32x4_t abcd_old = abcd;
      abcd = vsha256hq_u32(abcd, efgh, sums);
      efgh = vsha256h2q_u32(efgh, abcd_old, sums);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

bool has_instructions() {
#if defined(__APPLE__)
  return true;  // all Apple processors have SHA instructions
#else
  constexpr unsigned long kSha2 = 1UL << 6;  // HWCAP_SHA2
  return (getauxval(AT_HWCAP) & kSha2) != 0;
#endif
}

constexpr Sha256Method kInstructions = {"armv8", add_blocks_armv8};

#else

bool has_instructions() { return false; }

constexpr Sha256Method kInstructions = {"", nullptr};

#endif

}  // namespace

std::vector<Sha256Method> sha256_methods() {
  std::vector<Sha256Method> methods;
  if (has_instructions()) methods.push_back(kInstructions);
  methods.push_back({"portable", add_blocks});
  return methods;
}

std::string sha256(const std::function<size_t(char*, size_t)>& read, const Sha256Method& method) {
  // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::vector<unsigned char> chunk(kChunkBytes + 2 * kBlockBytes);
  uint64_t bytes = 0;
  size_t end = kChunkBytes;
  while (end == kChunkBytes) {
    end = read(reinterpret_cast<char*>(chunk.data()), kChunkBytes);
    bytes += end;
    if (end == kChunkBytes) method.add_blocks(state, chunk.data(), kChunkBytes / kBlockBytes);
  }
  // Pads the data with a one bit and then zeros up to the last 8 bytes of a block. These 8 bytes contain the data's
  // length in bits.
  chunk[end++] = 0x80;
  while (end % kBlockBytes != kBlockBytes - kLengthBytes) chunk[end++] = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) chunk[end++] = static_cast<unsigned char>(bytes * 8 >> (56 - 8 * i));
  method.add_blocks(state, chunk.data(), end / kBlockBytes);
  std::string text;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

std::string sha256(const std::function<size_t(char*, size_t)>& read) {
  static const Sha256Method fastest = sha256_methods().front();
  return sha256(read, fastest);
}

}  // namespace vmoe::sdk
