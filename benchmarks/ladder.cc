// Times every activation and softmax of each CPU path of this machine on values from -200 to 200. Some values must not
// take longer than others, which happens if an instruction reads or makes a subnormal number.
//
//     c++ -std=c++17 -O2 -Iplugins benchmarks/ladder.cc build/native/core/libvmoe_core.a -lpthread -o build/ladder
//     build/ladder            # for each kernel, the slowest bin's time over the median bin's, and the slowest bin
//     build/ladder --check    # for each kernel, the number of bins with subnormal numbers; x86 only
//
// A bin has values from v to v + 1. Activations receive them as the bias of a product whose sums are zero. Softmaxes
// receive scores that are 0 or one of the bin's values. `--check` reads the flags that x86 sets for a subnormal operand
// and for an inexact subnormal result. VDPBF16PS, tile products, VCVTNE2PS2BF16 and approximate reciprocals set none.
//
// Left out are the path amx, whose activations and softmaxes are those of amx_emulated, and the softmax of routers,
// which keeps subnormal gates because they rank experts.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "core/bfloat16.h"
#include "core/cpu_path.h"
#include "core/kernels.h"
#include "core/workspace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using vmoe::Activation;
using vmoe::ElementType;
using vmoe::Kernels;

constexpr int kFirstBin = -200, kBins = 400;
constexpr size_t kTokens = 197, kRows = 48, kColumns = 32;
constexpr int kRounds = 40;

struct Kernel {
  std::string name;
  std::function<void(int bin)> run;
};

// Returns value `i` of `count` values that are spread evenly over a bin.
float value_of(int bin, size_t i, size_t count) {
  return static_cast<float>(bin) + (static_cast<float>(i) + 0.5f) / static_cast<float>(count);
}

const char* activation_name(Activation activation) {
  constexpr const char* kNames[] = {"gelu_tanh", "gelu", "gelu_quick", "silu"};
  return kNames[static_cast<size_t>(activation)];
}

class Ladder {
 public:
  explicit Ladder(const Kernels& kernels) : kernels_(kernels) {
    zeros_ = memory_.take<char>(1 << 16);
    std::memset(zeros_, 0, 1 << 16);
    out_ = memory_.take<float>(1 << 16);
    scores_ = memory_.take<float>(1 << 16);
    for (float& scale : row_scale_) scale = 1;
    for (float& scale : column_scale_) scale = 1;
    for (size_t row = 0; row < kRows; ++row) {
      line_[row] = vmoe::line_offset(row, vmoe::kTileBytes);
      row_[row] = row * kColumns * sizeof(float);
    }
  }

  std::vector<Kernel> kernels() {
    std::vector<Kernel> all;
    for (Activation activation :
         {Activation::kGeluTanh, Activation::kGeluErf, Activation::kGeluQuick, Activation::kSilu}) {
      const std::string name = activation_name(activation);
      all.push_back({name + " float32", [this, activation](int bin) { activate_float32(activation, bin); }});
      for (const auto& [type, label] : {std::pair{ElementType::kBfloat16, " bfloat16"},
                                        {ElementType::kInt8, " int8"},
                                        {ElementType::kInt4, " int4"}}) {
        all.push_back({name + label, [this, activation, type = type](int bin) { activate(activation, type, bin); }});
      }
    }
    all.push_back({"softmax", [this](int bin) {
                     set_scores(bin);
                     kernels_.softmax(scores_, kTokens);
                   }});
    all.push_back({"attention float32", [this](int bin) {
                     set_scores(bin);
                     kernels_.attention_softmax(scores_, kTokens, 1);
                   }});
    all.push_back({"attention bfloat16", [this](int bin) { attend(bin); }});
    return all;
  }

 private:
  const Kernels& kernels_;
  vmoe::Workspace memory_;
  char* zeros_;
  float *out_, *scores_;
  alignas(64) float bias_[64] = {};
  float row_scale_[kRows], column_scale_[64];
  size_t line_[kRows], row_[kRows];
  const int32_t no_excess_[64] = {};

  void set_bias(int bin, size_t columns) {
    for (size_t i = 0; i < columns; ++i) bias_[i] = value_of(bin, i, columns);
  }
  void set_scores(int bin) {
    for (size_t i = 0; i < kTokens; ++i) scores_[i] = i % 2 == 0 ? 0 : value_of(bin, i, kTokens);
  }

  void activate_float32(Activation activation, int bin) {
    vmoe::PanelProduct product;
    product.columns = kernels_.panel_columns;
    set_bias(bin, product.columns);
    product.rows = product.panel = reinterpret_cast<const float*>(zeros_);
    product.row_count = kRows;
    product.row_stride = product.depth = 1;
    product.epilogue.bias = bias_;
    product.epilogue.activation = activation;
    product.out = out_;
    product.out_stride = product.columns;
    kernels_.product_f32(product);
  }

  void activate(Activation activation, ElementType type, int bin) {
    set_bias(bin, kColumns);
    vmoe::TileProduct product;
    product.type = type;
    product.rows = product.panel = zeros_;
    product.row_count = kRows;
    product.row_tile_stride = 2 * vmoe::kTileBytes;
    product.steps = product.panels = 1;
    product.columns = kColumns;
    product.row_scale = row_scale_;
    product.column_scale = column_scale_;
    product.column_excess = no_excess_;
    product.bias = bias_;
    if (type == ElementType::kBfloat16) {
      vmoe::HiddenLines to;
      to.activation = activation;
      to.out = reinterpret_cast<char*>(out_);
      to.offset = line_;
      kernels_.multiply_to_hidden_lines(product, to);
    } else {
      vmoe::HiddenRows to;
      to.activation = activation;
      to.out = out_;
      to.offset = row_;
      kernels_.multiply_to_hidden_rows(product, to);
    }
  }

  // A head of 32 columns. Only the first column of the queries and keys is not zero. All values are 1.
  void attend(int bin) {
    constexpr size_t kLine = vmoe::kLineBytes / sizeof(vmoe::Bf16);
    vmoe::Workspace memory;
    auto* query = memory.take<vmoe::Bf16>(kRows * kLine);
    auto* key = memory.take<vmoe::Bf16>(kTokens * kLine);
    auto* value = memory.take<vmoe::Bf16>(kTokens * kLine);
    std::fill_n(query, kRows * kLine, vmoe::to_bf16(0));
    std::fill_n(key, kTokens * kLine, vmoe::to_bf16(0));
    std::fill_n(value, kTokens * kLine, vmoe::to_bf16(1));
    set_scores(bin);
    for (size_t row = 0; row < kRows; ++row)
      query[row * kLine] = vmoe::to_bf16(std::sqrt(static_cast<float>(kColumns)));
    for (size_t token = 0; token < kTokens; ++token) key[token * kLine] = vmoe::to_bf16(scores_[token]);
    vmoe::TileHead head;
    head.q = reinterpret_cast<const char*>(query);
    head.k = reinterpret_cast<const char*>(key);
    head.v = reinterpret_cast<const char*>(value);
    head.queries = kRows;
    head.tokens = kTokens;
    head.size = kColumns;
    head.lines = 1;
    head.out = out_;
    head.offset = row_;
    head.out_columns = kColumns;
    head.scratch = memory.take<char>(vmoe::tile_head_bytes(kTokens, 1));
    kernels_.attend(head);
  }
};

double nanoseconds(const Kernel& kernel, int bin) {
  const auto start = std::chrono::steady_clock::now();
  kernel.run(bin);
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

// Times every bin once in each round, and takes each bin's shortest time.
void print_times(const char* path, const Kernel& kernel) {
  std::vector<double> best(kBins, 1e30);
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < kBins; ++i) best[i] = std::min(best[i], nanoseconds(kernel, kFirstBin + i));
  }
  std::vector<double> sorted = best;
  std::sort(sorted.begin(), sorted.end());
  const auto slowest = std::max_element(best.begin(), best.end()) - best.begin();
  const double ratio = best[slowest] / sorted[kBins / 2];
  std::printf("%s, %s: %.2f at %d\n", path, kernel.name.c_str(), ratio, kFirstBin + static_cast<int>(slowest));
}

#if defined(__x86_64__)
constexpr unsigned kSubnormalOperand = 1 << 1, kSubnormalResult = 1 << 4;  // of MXCSR

template <class Run>
bool meets_subnormals(Run&& run) {
  _mm_setcsr(_mm_getcsr() & ~(kSubnormalOperand | kSubnormalResult));
  run();
  return (_mm_getcsr() & (kSubnormalOperand | kSubnormalResult)) != 0;
}

bool can_check() {
  return meets_subnormals([] {
    volatile float smallest = 1.17549435e-38f;
    volatile float quotient = smallest / 3;
    (void)quotient;
  });
}

void print_check(const char* path, const Kernel& kernel) {
  int bins = 0;
  for (int i = 0; i < kBins; ++i) bins += meets_subnormals([&] { kernel.run(kFirstBin + i); });
  std::printf("%s, %s: %d\n", path, kernel.name.c_str(), bins);
}
#else
bool can_check() { return false; }
void print_check(const char*, const Kernel&) {}
#endif

}  // namespace

int main(int argc, char** argv) {
  const bool checks = argc > 1 && std::strcmp(argv[1], "--check") == 0;
  if (checks && !can_check()) {
    std::fprintf(stderr, "this machine does not tell whether a number is subnormal\n");
    return 2;
  }
  for (size_t i = 0; i < std::size(vmoe::kCpuPathNames); ++i) {
    const auto path = static_cast<vmoe::CpuPath>(i);
    if (path == vmoe::CpuPath::kAmx || !vmoe::cpu_path_supported(path)) continue;
    const Kernels& kernels = vmoe::kernels_for(path);
    Ladder ladder(kernels);
    for (const Kernel& kernel : ladder.kernels()) {
      (checks ? print_check : print_times)(cpu_path_name(path), kernel);
    }
  }
  return 0;
}
