// Runs the experts' MLP while the memory of experts without rows can't be read, on every CPU path and in every type of
// weights: a call that read a byte of it would end the process.
//
//   expert_bytes used|unused
//
// "unused": experts 0 and 5 of 6 have rows, and what experts 1 to 4 have can't be read. Prints "PATH TYPE WIDTH: right"
// if the outputs have the bits that they have when everything can be read. "used": expert 2 has rows as well, so that
// the process ends by a signal.
//
// Reading ahead raises no signal, so the kernels for float32 are asked where they would.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/cpu_path.h"
#include "core/kernels.h"
#include "core/mlp.h"

namespace {

using vmoe::CpuPath;
using vmoe::ElementType;
using vmoe::Kernels;
using vmoe::PackedWeights;

constexpr size_t kExperts = 6;
constexpr size_t kFirstUnused = 1;
constexpr size_t kEndUnused = 5;
constexpr size_t kRows = 5;  // of each expert that is used

using Range = std::pair<const char*, const char*>;

// Where the kernels must not read ahead, and those that would do the work.
std::vector<Range> g_forbidden;                          // NOLINT: kernels are plain functions
void (*g_product)(const vmoe::PanelProduct&) = nullptr;  // NOLINT
bool g_read_ahead = false;                               // NOLINT

void watched_product(const vmoe::PanelProduct& product) {
  const auto* next = static_cast<const char*>(product.next_panel);
  for (const Range& range : g_forbidden) g_read_ahead = g_read_ahead || (next >= range.first && next < range.second);
  g_product(product);
}

float value_at(size_t i) { return static_cast<float>(static_cast<int>(i * 2654435761U % 257) - 128) / 512; }

std::shared_ptr<const PackedWeights> make_weights(const Kernels& kernels, ElementType type, size_t depth,
                                                  size_t columns) {
  const size_t count = kExperts * depth * columns;
  std::vector<char> stored(count * vmoe::bytes_of(type));
  for (size_t i = 0; i < count; ++i) {
    if (type == ElementType::kFloat32) reinterpret_cast<float*>(stored.data())[i] = value_at(i);
    if (type == ElementType::kBfloat16) reinterpret_cast<uint16_t*>(stored.data())[i] = vmoe::to_bf16(value_at(i));
    if (vmoe::bytes_of(type) == 1) stored[i] = static_cast<char>(value_at(i) * 508);
  }
  const std::vector<uint16_t> group_scale(kExperts * vmoe::divide_up(depth, 64) * columns, 0x2bff);  // nearly 1 / 16
  vmoe::StoredWeights weights;
  weights.data = stored.data();
  weights.type = type;
  weights.matrices = kExperts;
  weights.depth = depth;
  weights.columns = columns;
  weights.scale = group_scale.data();
  return std::make_shared<PackedWeights>(kernels, weights);
}

// f32[E, columns] in pages of its own.
class Floats {
 public:
  explicit Floats(size_t columns) : columns_(columns), bytes_(kExperts * columns * sizeof(float)) {
    data_ = static_cast<float*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (data_ == MAP_FAILED) std::abort();
    for (size_t i = 0; i < kExperts * columns; ++i) data_[i] = value_at(i) / 4 + 0.25F;
  }
  ~Floats() { munmap(data_, bytes_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;

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

// The whole pages of a range.
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
  const Floats b1(hidden), b2(width), w1_scale(hidden), w2_scale(width);
  const vmoe::MlpWeights weights{{make_weights(watched, type, width, hidden), b1.data(), w1_scale.data()},
                                 {make_weights(watched, type, hidden, width), b2.data(), w2_scale.data()}};
  std::vector<size_t> first = {0, kRows, kRows, kRows, kRows, kRows, 2 * kRows};
  if (uses_all) {
    for (size_t e = 3; e <= kExperts; ++e) first[e] += kRows;
  }
  std::vector<float> x(first[kExperts] * width);
  for (size_t i = 0; i < x.size(); ++i) x[i] = value_at(i) * 4;
  std::vector<float> expected(x.size());
  std::vector<float> found(x.size());
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
  for (CpuPath path : {CpuPath::kScalar, CpuPath::kNeon, CpuPath::kAvx2, CpuPath::kAvx2Vnni, CpuPath::kAvx512,
                       CpuPath::kAvx512Vnni, CpuPath::kAvx512Bf16, CpuPath::kAmx, CpuPath::kAmxEmulated}) {
    if (!vmoe::cpu_path_supported(path)) continue;
    for (const ElementType type :
         {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kInt8, ElementType::kInt4}) {
      // Whole panels, and columns that are padded to some.
      for (const size_t width : {size_t{1024}, size_t{1000}}) {
        const bool is_right = gives_right_bits(vmoe::kernels_for(path), type, width, width + 512, uses_all);
        std::printf("%s %s %zu: %s\n", cpu_path_name(path), vmoe::name_of(type), width, is_right ? "right" : "wrong");
        right = right && is_right;
      }
    }
  }
  return right ? 0 : 1;
}
