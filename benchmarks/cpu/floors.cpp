// The fastest this machine can multiply and read: loops that do nothing else, on random data.
//
//   floors THREADS [compute|read]
//
// prints JSON, the best of several tries each: "peaks", the operations per second of every kind of product that the CPU
// has instructions for, with operands from the first-level cache, and "read_bytes", bytes per second from memory.
// Either alone where asked for.
//
// Random data, because the same loops on zeros, or on registers that never change, draw less power and run faster than
// any product that is of use.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
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

#ifdef __AVX512F__
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
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
constexpr int kColumns = 3;
constexpr int kSteps = 64;  // 14 KB of words and vectors

constexpr int64_t kRounds = 20'000;
constexpr int kTries = 40;                      // short and many, so that some meet no other process
constexpr size_t kReadBytes = size_t{1} << 30;  // more than the caches, which servers have up to half of that of
constexpr int kReadTries = 12;
constexpr size_t kCacheLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

std::atomic<float> sink;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Runs `work(thread)` on all threads at once; returns the best time of several tries, thread creation left out.
double best_seconds(int threads, int tries, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int attempt = 0; attempt < tries; ++attempt) {
    std::atomic<int> waiting{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) {
      others.emplace_back([&, t] {
        ++waiting;
        while (!go) std::this_thread::yield();
        work(t);
      });
    }
    while (waiting < threads - 1) std::this_thread::yield();
    const double start = now();
    go = true;
    work(0);
    for (auto& other : others) other.join();
    best = std::min(best, now() - start);
  }
  return best;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(0x9e3779b97f4a7c15u * (seed + 1)) {}

  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  // In [-1, 1).
  float number() { return static_cast<float>(static_cast<int64_t>(bits() >> 40)) * 0x1p-23f - 1.0f; }

 private:
  uint64_t state_;
};

// Operands of one thread, of one of three types, by the bytes that they fill.
class Operands {
 public:
  enum class Type { kFloat, kBfloat16, kInt8 };

  Operands(Type type, size_t bytes, int thread) : memory_(bytes + kCacheLine) {
    Random random(static_cast<uint64_t>(thread));
    begin_ = memory_.data() + (kCacheLine - reinterpret_cast<uintptr_t>(memory_.data()) % kCacheLine) % kCacheLine;
    for (size_t at = 0; at < bytes; at += 4) {
      uint32_t word = static_cast<uint32_t>(random.bits());
      if (type != Type::kInt8) {
        const float number = random.number();
        std::memcpy(&word, &number, sizeof(word));
        if (type == Type::kBfloat16) {
          const float other = random.number();
          uint32_t low;
          std::memcpy(&low, &other, sizeof(low));
          word = (word & 0xffff0000u) | low >> 16;  // a bfloat16 is the upper half of a float
        }
      }
      std::memcpy(begin_ + at, &word, sizeof(word));
    }
  }

  const uint8_t* begin() const { return begin_; }

 private:
  std::vector<uint8_t> memory_;
  uint8_t* begin_;
};

constexpr size_t kWordBytes = size_t{kSteps} * kRows * 4;
constexpr size_t kBlockBytes = kWordBytes + size_t{kSteps} * kColumns * kVectorBytes;

// `multiply_add(sum, word, vector)` on the bytes of a word and of a vector. Every loop over sums is unrolled, as
// otherwise they would not stay in registers.
template <typename Sum, typename MultiplyAdd>
void multiply_block(const uint8_t* operands, MultiplyAdd multiply_add) {
  const uint8_t* vectors = operands + kWordBytes;
  Sum sums[kRows * kColumns] = {};
  for (int64_t round = 0; round < kRounds; ++round) {
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kColumns; ++i) {
        sums[i] = multiply_add(sums[i], operands + (step * kRows + i / kColumns) * 4,
                               vectors + (step * kColumns + i % kColumns) * kVectorBytes);
      }
    }
  }
  Sum total = {};
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kColumns; ++i) total += sums[i];
  sink = static_cast<float>(total[0]);
}

void multiply_fp32(const uint8_t* operands) {
  multiply_block<Vector>(operands, [](Vector sum, const uint8_t* word, const uint8_t* vector) {
    return sum + *reinterpret_cast<const float*>(word) * *reinterpret_cast<const Vector*>(vector);
  });
}

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
__m512i broadcast(const uint8_t* word) { return _mm512_set1_epi32(*reinterpret_cast<const int*>(word)); }
#endif

#ifdef __AVX512BF16__
void multiply_bf16_vectors(const uint8_t* operands) {
  multiply_block<Vector>(operands, [](Vector sum, const uint8_t* word, const uint8_t* vector) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)broadcast(word), (__m512bh)_mm512_load_si512(vector));
  });
}
#endif

#ifdef __AVX512VNNI__
void multiply_int8_vectors(const uint8_t* operands) {
  multiply_block<IntVector>(operands, [](IntVector sum, const uint8_t* word, const uint8_t* vector) {
    return (IntVector)_mm512_dpbusd_epi32((__m512i)sum, broadcast(word), _mm512_load_si512(vector));
  });
}
#endif

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define FLOORS_HAS_TILES

constexpr int kTileRows = 16;
constexpr int kTileBytes = 1024;
constexpr int kTileSteps = 8;  // of four tiles each: 32 KB
constexpr size_t kTileBlockBytes = size_t{kTileSteps} * 4 * kTileBytes;
constexpr int64_t kTileRounds = 10'000;

// Linux gives a process the tiles' registers when it asks.
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void configure_tiles() {
  struct alignas(kCacheLine) {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes[tile] = kTileBytes / kTileRows;
    config.rows[tile] = kTileRows;
  }
  _tile_loadconfig(&config);
}

// Two by two tiles of sums: a step loads two tiles of rows and two of columns, and multiplies each with each.
#define FLOORS_MULTIPLY_TILES(product)                                 \
  configure_tiles();                                                   \
  _tile_zero(0);                                                       \
  _tile_zero(1);                                                       \
  _tile_zero(2);                                                       \
  _tile_zero(3);                                                       \
  for (int64_t round = 0; round < kTileRounds; ++round) {              \
    for (int step = 0; step < kTileSteps; ++step) {                    \
      const uint8_t* tiles = operands + size_t{4} * kTileBytes * step; \
      _tile_loadd(4, tiles, kTileBytes / kTileRows);                   \
      _tile_loadd(5, tiles + kTileBytes, kTileBytes / kTileRows);      \
      _tile_loadd(6, tiles + 2 * kTileBytes, kTileBytes / kTileRows);  \
      _tile_loadd(7, tiles + 3 * kTileBytes, kTileBytes / kTileRows);  \
      product(0, 4, 6);                                                \
      product(1, 4, 7);                                                \
      product(2, 5, 6);                                                \
      product(3, 5, 7);                                                \
    }                                                                  \
  }                                                                    \
  alignas(kCacheLine) float sums[kTileBytes / sizeof(float)];          \
  _tile_stored(0, sums, kTileBytes / kTileRows);                       \
  _tile_release();                                                     \
  asm volatile("" ::: "memory");                                       \
  sink = sums[0]

void multiply_bf16_tiles(const uint8_t* operands) { FLOORS_MULTIPLY_TILES(_tile_dpbf16ps); }

void multiply_int8_tiles(const uint8_t* operands) { FLOORS_MULTIPLY_TILES(_tile_dpbssd); }
#endif

void read(const uint8_t* memory, int thread, int threads) {
  constexpr int kStreams = 8;
  Vector sums[kStreams] = {};
  constexpr size_t kStride = size_t{kStreams} * kVectorBytes;
  const size_t share = kReadBytes / static_cast<size_t>(threads) / kStride * kStride;
  const uint8_t* begin = memory + share * static_cast<size_t>(thread);
  for (const uint8_t* at = begin; at < begin + share; at += kStride) {
#pragma GCC unroll 8
    for (int stream = 0; stream < kStreams; ++stream)
      sums[stream] += *reinterpret_cast<const Vector*>(at + stream * kVectorBytes);
  }
  Vector total = {};
  for (const Vector& sum : sums) total += sum;
  sink = total[0];
}

class Peaks {
 public:
  explicit Peaks(int threads) : threads_(threads) {}

  // Times `multiply`, which does `operations` on operands of `bytes`, on all threads.
  void measure(const char* name, Operands::Type type, size_t bytes, double operations,
               void (*multiply)(const uint8_t*)) {
    std::vector<Operands> operands;
    for (int thread = 0; thread < threads_; ++thread) operands.emplace_back(type, bytes, thread);
    const double seconds =
        best_seconds(threads_, kTries, [&](int thread) { multiply(operands[static_cast<size_t>(thread)].begin()); });
    char text[64];
    std::snprintf(text, sizeof(text), "%s\"%s\": %.6g", text_.empty() ? "" : ", ", name,
                  operations * threads_ / seconds);
    text_ += text;
  }

  const std::string& text() const { return text_; }

 private:
  int threads_;
  std::string text_;
};

std::string measure_peaks(int threads) {
  Peaks peaks(threads);
  // Two operations per lane of a word's floats, bfloat16s or integers.
  const double words = 2.0 * kLanes * kRows * kColumns * kSteps * static_cast<double>(kRounds);
  peaks.measure("fp32", Operands::Type::kFloat, kBlockBytes, words, multiply_fp32);
#ifdef __AVX512BF16__
  peaks.measure("bf16_vectors", Operands::Type::kBfloat16, kBlockBytes, 2 * words, multiply_bf16_vectors);
#endif
#ifdef __AVX512VNNI__
  peaks.measure("int8_vectors", Operands::Type::kInt8, kBlockBytes, 4 * words, multiply_int8_vectors);
#endif
#ifdef FLOORS_HAS_TILES
  if (may_use_tiles()) {
    const double tile_words =
        2.0 * 4 * kTileRows * kTileRows * kTileRows * kTileSteps * static_cast<double>(kTileRounds);
    peaks.measure("bf16_tiles", Operands::Type::kBfloat16, kTileBlockBytes, 2 * tile_words, multiply_bf16_tiles);
    peaks.measure("int8_tiles", Operands::Type::kInt8, kTileBlockBytes, 4 * tile_words, multiply_int8_tiles);
  }
#endif
  return peaks.text();
}

double measure_read(int threads) {
  const std::unique_ptr<uint8_t, decltype(&std::free)> memory(
      static_cast<uint8_t*>(std::aligned_alloc(kHugePage, kReadBytes)), std::free);
  if (!memory) return 0;
#ifdef __linux__
  madvise(memory.get(), kReadBytes, MADV_HUGEPAGE);  // with small pages a core reads a quarter less
#endif
  Random random(0);
  for (size_t at = 0; at < kHugePage; at += sizeof(uint64_t)) {
    // Floats of moderate size, as sums of numbers without a value are slow on some CPUs.
    const uint64_t floats = (random.bits() & 0x007fffff007fffffu) | 0x3f8000003f800000u;
    std::memcpy(memory.get() + at, &floats, sizeof(floats));
  }
  for (size_t at = kHugePage; at < kReadBytes; at += kHugePage) std::memcpy(memory.get() + at, memory.get(), kHugePage);
  return static_cast<double>(kReadBytes) /
         best_seconds(threads, kReadTries, [&](int thread) { read(memory.get(), thread, threads); });
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc >= 2 ? std::atoi(argv[1]) : 0;
  const std::string what = argc == 3 ? argv[2] : "";
  if (threads < 1 || threads > 1024 || argc > 3 || !(what.empty() || what == "compute" || what == "read")) {
    std::fprintf(stderr, "usage: floors THREADS [compute|read], with 1 to 1024 threads\n");
    return 2;
  }
  std::string text;
  if (what != "read") text = "\"peaks\": {" + measure_peaks(threads) + "}";
  if (what != "compute") {
    char read_text[64];
    std::snprintf(read_text, sizeof(read_text), "%s\"read_bytes\": %.6g", text.empty() ? "" : ", ",
                  measure_read(threads));
    text += read_text;
  }
  std::printf("{%s}\n", text.c_str());
  return 0;
}
