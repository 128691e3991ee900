// The fastest this machine can multiply and read: loops that do nothing else, on random data.
//
//   floors THREADS
//
// prints JSON, the best of several tries each: "peaks", the operations per second of every kind of product that the CPU
// has instructions for, with operands from the first-level cache, and "read_bytes", bytes per second from memory.
//
// Random data, because the same loops on zeros, or on registers that never change, draw less power and run faster than
// any product that is of use.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kVectorBytes = __BIGGEST_ALIGNMENT__;  // of the widest vector
typedef float Vector __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / sizeof(float);

// A block of kRows x kColumns vectors of sums in registers, as in a matrix product: each step multiplies kRows
// broadcast words with kColumns vectors. A word is one float, two bfloat16 or four int8.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;  // of 16 registers
#endif
constexpr int kColumns = 3, kSteps = 64;  // 14 KB of words and vectors
constexpr size_t kOperandWords = 8192;    // 32 KB, of which a block takes as many as it needs
constexpr int64_t kRounds = 20'000;
constexpr int kTries = 40, kReadTries = 12;     // short and many, so that some meet no other process
constexpr size_t kReadBytes = size_t{1} << 30;  // more than the caches, which servers have up to half of that of
constexpr size_t kHugePage = size_t{2} << 20;

std::atomic<float> sink;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs `work(thread)` on all threads at once; returns the best time of several tries.
template <typename Work>
double best_seconds(int threads, int tries, Work work) {
  double best = 1e30;
  std::barrier together(threads);
  std::vector<std::jthread> all;
  for (int thread = 0; thread < threads; ++thread) {
    all.emplace_back([&, thread] {
      for (int attempt = 0; attempt < tries; ++attempt) {
        const double start = seconds_now();
        together.arrive_and_wait();
        work(thread);
        together.arrive_and_wait();
        if (thread == 0) best = std::min(best, seconds_now() - start);
      }
    });
  }
  all.clear();  // waits for them
  return best;
}

// Words of random bits; with `numbers` the bits are a float in [-1, 1) and two bfloat16 alike, not NaN or tiny.
void fill_words(uint32_t* words, size_t count, bool numbers) {
  static std::mt19937 random;
  for (size_t i = 0; i < count; ++i) {
    words[i] = static_cast<uint32_t>(random());
    if (numbers) words[i] = (words[i] & 0x80ff80ffu) | 0x3f003f00u;
  }
}

// `multiply_add(sum, word, vector)` over and over. Every loop over sums is unrolled, so that they stay in registers.
template <typename Sum, typename MultiplyAdd>
void multiply_block(const uint32_t* words, MultiplyAdd multiply_add) {
  const auto* vectors = reinterpret_cast<const Vector*>(words + kSteps * kRows);
  Sum sums[kRows * kColumns] = {};
  for (int64_t round = 0; round < kRounds; ++round) {
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
        for (int column = 0; column < kColumns; ++column) {
          Sum& sum = sums[row * kColumns + column];
          sum = multiply_add(sum, words[step * kRows + row], vectors[step * kColumns + column]);
        }
      }
    }
    asm volatile("" ::: "memory");
  }
  Sum total = {};
  for (const Sum& sum : sums) total += sum;
  sink = static_cast<float>(total[0]);
}

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define FLOORS_HAS_TILES
constexpr int kTileRows = 16, kTileBytes = 1024, kTileSteps = 8;  // of four tiles each: 32 KB
constexpr int64_t kTileRounds = 10'000;

// Linux gives a process the tiles' registers when it asks.
bool may_use_tiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// Two by two tiles of sums: a step loads two tiles of rows and two of columns, and multiplies each with each.
template <bool kInt8>
void multiply_tiles(const uint32_t* words) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);  // which zeroes the tiles
  for (int64_t step = 0; step < kTileRounds * kTileSteps; ++step) {
    const auto* tiles = reinterpret_cast<const uint8_t*>(words) + 4 * kTileBytes * (step % kTileSteps);
    _tile_loadd(4, tiles, 64);
    _tile_loadd(5, tiles + kTileBytes, 64);
    _tile_loadd(6, tiles + 2 * kTileBytes, 64);
    _tile_loadd(7, tiles + 3 * kTileBytes, 64);
    if constexpr (kInt8) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float sums[kTileBytes / sizeof(float)];
  _tile_stored(0, sums, 64);
  _tile_release();
  asm volatile("" ::: "memory");
  sink = sums[0];
}
#endif

// Prints a peak: `multiply` does `operations` on each thread.
void print_peak(const char* name, int threads, bool numbers, double operations, void (*multiply)(const uint32_t*)) {
  struct alignas(64) Operands {
    uint32_t words[kOperandWords];
  };
  std::vector<Operands> operands(static_cast<size_t>(threads));
  for (Operands& each : operands) fill_words(each.words, kOperandWords, numbers);
  const double seconds =
      best_seconds(threads, kTries, [&](int thread) { multiply(operands[static_cast<size_t>(thread)].words); });
  std::printf("%s\"%s\": %.6g", std::strcmp(name, "fp32") == 0 ? "" : ", ", name, operations * threads / seconds);
}

void print_peaks(int threads) {
  // Two operations per lane of a word's floats, bfloat16s or integers.
  const double words = 2.0 * kLanes * kRows * kColumns * kSteps * static_cast<double>(kRounds);
  print_peak("fp32", threads, true, words, [](const uint32_t* operands) {
    multiply_block<Vector>(operands, [](Vector sum, uint32_t word, Vector vector) {
      float number;
      std::memcpy(&number, &word, sizeof(number));
      return sum + number * vector;
    });
  });
#ifdef __AVX512BF16__
  print_peak("bf16_vectors", threads, true, 2 * words, [](const uint32_t* operands) {
    multiply_block<Vector>(operands, [](Vector sum, uint32_t word, Vector vector) {
      return static_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                  reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(word))),
                                                  reinterpret_cast<__m512bh>(vector)));
    });
  });
#endif
#ifdef __AVX512VNNI__
  print_peak("int8_vectors", threads, false, 4 * words, [](const uint32_t* operands) {
    multiply_block<IntVector>(operands, [](IntVector sum, uint32_t word, Vector vector) {
      return reinterpret_cast<IntVector>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                             _mm512_set1_epi32(static_cast<int>(word)),
                                                             reinterpret_cast<__m512i>(vector)));
    });
  });
#endif
#ifdef FLOORS_HAS_TILES
  if (may_use_tiles()) {
    const double tiles = 2.0 * 4 * kTileRows * kTileRows * kTileRows * kTileSteps * static_cast<double>(kTileRounds);
    print_peak("bf16_tiles", threads, true, 2 * tiles, multiply_tiles<false>);
    print_peak("int8_tiles", threads, false, 4 * tiles, multiply_tiles<true>);
  }
#endif
}

void read_memory(const uint8_t* memory, size_t bytes) {
  constexpr int kStreams = 8;
  Vector sums[kStreams] = {};
  for (const uint8_t* at = memory; at < memory + bytes; at += kStreams * kVectorBytes) {
#pragma GCC unroll 8
    for (int i = 0; i < kStreams; ++i) sums[i] += *reinterpret_cast<const Vector*>(at + i * kVectorBytes);
  }
  for (int i = 1; i < kStreams; ++i) sums[0] += sums[i];
  sink = sums[0][0];
}

double read_rate(int threads) {
  auto* memory = static_cast<uint8_t*>(std::aligned_alloc(kHugePage, kReadBytes));
  if (memory == nullptr) return 0;
#ifdef __linux__
  madvise(memory, kReadBytes, MADV_HUGEPAGE);  // with small pages a core reads a quarter less
#endif
  // Floats of moderate size, as sums of numbers without a value are slow on some CPUs.
  fill_words(reinterpret_cast<uint32_t*>(memory), kHugePage / sizeof(uint32_t), true);
  for (size_t at = kHugePage; at < kReadBytes; at += kHugePage) std::memcpy(memory + at, memory, kHugePage);
  const size_t share = kReadBytes / static_cast<size_t>(threads) / 4096 * 4096;
  const double seconds = best_seconds(
      threads, kReadTries, [&](int thread) { read_memory(memory + share * static_cast<size_t>(thread), share); });
  std::free(memory);
  return static_cast<double>(share) * threads / seconds;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc == 2 ? std::atoi(argv[1]) : 0;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "usage: floors THREADS, with 1 to 1024 threads\n");
    return 2;
  }
  std::printf("{\"peaks\": {");
  print_peaks(threads);
  std::printf("}, \"read_bytes\": %.6g}\n", read_rate(threads));
  return 0;
}
