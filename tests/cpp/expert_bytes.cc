// On every CPU path and in every weight type, runs the experts' MLP while the weights of unused experts are unreadable.
// An expert without rows is unused. If a call reads even one byte of an unused expert's weights, the process ends.
//
//   expert_bytes used|unused
//
// "unused": experts 0 and 5 of 6 have rows, and the weights of experts 1 to 4 are unreadable. Prints "PATH TYPE WIDTH:
// right" if the outputs have the same bits as when all weights are readable. "used": expert 2 has rows too, although
// its weights are unreadable, so a signal ends the process.
//
// Prefetching unreadable memory raises no signal. Therefore a wrapper around the float32 kernels checks the ranges that
// they would prefetch.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core_layers.h"

namespace {

using vmoe::PackedWeights;

constexpr size_t kExperts = 6;
constexpr size_t kFirstUnused = 1;
constexpr size_t kEndUnused = 5;
constexpr size_t kRows = 5;  // for each expert that has rows

using Range = std::pair<const char*, const char*>;

// State of the wrapper: the ranges that kernels must not prefetch, the wrapped kernel, and whether a caller told a
// kernel to prefetch from one of these ranges.
std::vector<Range> g_forbidden;                          // NOLINT: kernels are plain functions
void (*g_product)(const vmoe::PanelProduct&) = nullptr;  // NOLINT
bool g_read_ahead = false;                               // NOLINT

void watched_product(const vmoe::PanelProduct& product) {
  const auto* next = static_cast<const char*>(product.next_panel);
  for (const Range& range : g_forbidden) g_read_ahead = g_read_ahead || (next >= range.first && next < range.second);
  g_product(product);
}

// An array float32[E, columns] in memory pages that contain nothing else.
class GuardedFloats {
 public:
  explicit GuardedFloats(size_t columns) : columns_(columns), bytes_(kExperts * columns * sizeof(float)) {
    data_ = static_cast<float*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (data_ == MAP_FAILED) std::abort();
    const Floats numbers = make_numbers(kExperts * columns, 1);
    std::transform(numbers.begin(), numbers.end(), data_, [](float number) { return number / 8 + 0.25F; });
  }
  ~GuardedFloats() { munmap(data_, bytes_); }
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;

  const float* data() const { return data_; }
  Range unused() const {
    return {reinterpret_cast<const char*>(data_ + kFirstUnused * columns_),
            reinterpret_cast<const char*>(data_ + kEndUnused * columns_)};
  }

 private:
  size_t columns_;
  size_t bytes_;
  float* data_;
};

Range unused_panels(const PackedWeights& weights) {
  return {weights.panel_at(kFirstUnused, 0), weights.panel_at(kEndUnused, 0)};
}

// Sets the access protection of those pages that lie completely within a range.
void protect(const Range& range, int protection) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(range.first) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.second) / page * page;
  if (begin >= end || mprotect(reinterpret_cast<void*>(begin), end - begin, protection) != 0) std::abort();
}

bool gives_right_bits(const Kernels& kernels, ElementType type, size_t width, size_t hidden, bool uses_all) {
  Kernels watched = kernels;
  g_product = kernels.product_f32;
  watched.product_f32 = watched_product;
  const GuardedFloats b1(hidden), b2(width), w1_scale(hidden), w2_scale(width);
  const auto w1 = make_layer(watched, type, make_form(kExperts, width, hidden), 2).packed,
             w2 = make_layer(watched, type, make_form(kExperts, hidden, width), 3).packed;
  const vmoe::MlpWeights weights{{w1, b1.data(), w1_scale.data()}, {w2, b2.data(), w2_scale.data()}};
  std::vector<size_t> first = {0, kRows, kRows, kRows, kRows, kRows, 2 * kRows};
  if (uses_all) {
    for (size_t e = 3; e <= kExperts; ++e) first[e] += kRows;
  }
  const Floats x = make_numbers(first[kExperts] * width, 4);
  Floats expected(x.size()), found(x.size());
  g_forbidden.clear();
  vmoe::compute_expert_mlp(weights, {x.data(), nullptr, first.data(), {}, false}, expected.data(),
                           vmoe::serial_runner());
  g_forbidden = {unused_panels(*weights.first.matrix), unused_panels(*weights.second.matrix), b1.unused(), b2.unused()};
  if (type == ElementType::kInt8) g_forbidden.insert(g_forbidden.end(), {w1_scale.unused(), w2_scale.unused()});
  for (const Range& range : g_forbidden) protect(range, PROT_NONE);
  vmoe::compute_expert_mlp(weights, {x.data(), nullptr, first.data(), {}, false}, found.data(), vmoe::serial_runner());
  for (const Range& range : g_forbidden) protect(range, PROT_READ | PROT_WRITE);
  return !g_read_ahead && std::memcmp(expected.data(), found.data(), found.size() * sizeof(float)) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const bool uses_all = std::string(argv[1]) == "used";
  bool right = true;
  for (vmoe::CpuPath path : supported_paths()) {
    for (const ElementType type : kTypes) {
      // With the first width, weights fill whole panels. With the second width, the last panel needs padding.
      for (const size_t width : {size_t{1024}, size_t{1000}}) {
        const bool is_right = gives_right_bits(vmoe::kernels_for(path), type, width, width + 512, uses_all);
        std::printf("%s %s %zu: %s\n", cpu_path_name(path), vmoe::name_of(type), width, is_right ? "right" : "wrong");
        right = right && is_right;
      }
    }
  }
  return right ? 0 : 1;
}
