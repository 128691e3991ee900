// The fastest this machine can multiply and read: loops that do nothing else.
//
//   floors THREADS
//
// prints JSON: fp32_flops and bf16_flops (per second; bf16 is null where the CPU has no such instruction) and
// read_bytes (per second), each the best of several tries.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
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
constexpr int kLanes = kVectorBytes / sizeof(float);

constexpr int kChains = 12;  // enough to hide the latency of two multiply-adds a cycle, and few enough for registers
constexpr int64_t kRounds = 2'000'000;
constexpr int kTries = 60;                        // short and many, so that some meet no other process
constexpr size_t kReadBytes = size_t{256} << 20;  // far more than any cache

volatile float sink;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs `work(thread)` on all threads at once; returns the best time of several tries.
double best_seconds(int threads, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    best = std::min(best, seconds_of([&] {
                      std::vector<std::thread> others;
                      for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
                      work(0);
                      for (auto& other : others) other.join();
                    }));
  }
  return best;
}

void multiply_fp32(int thread) {
  Vector sums[kChains] = {};
  for (int chain = 0; chain < kChains; ++chain)
    sums[chain] += static_cast<float>(chain);  // no two alike, or one is left
  Vector factor = {}, term = {};
  factor += 0.5f + 1e-6f * static_cast<float>(thread);
  term += 1.0f;
  for (int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + term;
  }
  Vector total = {};
  for (const Vector& sum : sums) total += sum;
  sink = total[0];
}

#ifdef __AVX512BF16__
void multiply_bf16(int thread) {
  __m512 sums[kChains];
  for (int chain = 0; chain < kChains; ++chain) sums[chain] = _mm512_set1_ps(static_cast<float>(chain));
  const __m512 value = _mm512_set1_ps(1e-3f + 1e-6f * static_cast<float>(thread));
  const __m512bh factor = _mm512_cvtne2ps_pbh(value, value);
  for (int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = _mm512_dpbf16_ps(sums[chain], factor, factor);
  }
  __m512 total = _mm512_setzero_ps();
  for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
  sink = _mm512_reduce_add_ps(total);
}
#endif

void read(const std::vector<float>& memory, int thread, int threads) {
  constexpr int kStreams = 8;
  Vector sums[kStreams] = {};
  const size_t share = memory.size() / static_cast<size_t>(threads) / (kStreams * kLanes) * (kStreams * kLanes);
  const float* begin = memory.data() + share * static_cast<size_t>(thread);
  for (const float* at = begin; at < begin + share; at += kStreams * kLanes) {
#pragma GCC unroll 8
    for (int stream = 0; stream < kStreams; ++stream) {
      Vector loaded;
      __builtin_memcpy(&loaded, at + stream * kLanes, sizeof(loaded));
      sums[stream] += loaded;
    }
  }
  Vector total = {};
  for (const Vector& sum : sums) total += sum;
  sink = total[0];
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc == 2 ? std::atoi(argv[1]) : 0;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "usage: floors THREADS (1 to 1024)\n");
    return 2;
  }
  const double operations = 2.0 * kLanes * kChains * static_cast<double>(kRounds) * threads;
  const double fp32 = operations / best_seconds(threads, multiply_fp32);
  const std::vector<float> memory(kReadBytes / sizeof(float), 1.0f);
  const double bytes =
      static_cast<double>(kReadBytes) / best_seconds(threads, [&](int t) { read(memory, t, threads); });
  std::printf("{\"fp32_flops\": %.6g, \"read_bytes\": %.6g, \"bf16_flops\": ", fp32, bytes);
#ifdef __AVX512BF16__
  // 16 sums of two products each.
  const double bf16_operations = 4.0 * 16 * kChains * static_cast<double>(kRounds) * threads;
  std::printf("%.6g}\n", bf16_operations / best_seconds(threads, multiply_bf16));
#else
  std::printf("null}\n");
#endif
  return 0;
}
