// Holds the core to plain loops in double precision, on every CPU path that this machine has. Prints one line per path.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "core/attention.h"
#include "core/bfloat16.h"
#include "core/cpu_path.h"
#include "core/kernels.h"
#include "core/linear.h"
#include "core/sparse_mlp.h"

namespace {

using vmoe::CpuPath;
using vmoe::ExpertWeights;
using vmoe::Kernels;
using vmoe::PackedWeights;
using vmoe::RoutingShape;
using vmoe::StoredWeights;
using Doubles = std::vector<double>;
using Floats = std::vector<float>;

std::mt19937 random_bits(7);  // NOLINT: the same numbers every time

size_t Number(size_t least, size_t most) { return least + random_bits() % (most - least + 1); }

Floats Normal(size_t count, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  Floats values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

void Require(bool holds, const char* what, CpuPath path) {
  if (holds) return;
  std::printf("%s: %s is wrong\n", CpuPathName(path), what);
  std::exit(1);
}

double Largest(const Floats& values) {
  double largest = 1;
  for (float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

void RequireClose(const Floats& found, const Doubles& expected, double tolerance, const char* what, CpuPath path) {
  const double scale = Largest(found);
  for (size_t i = 0; i < found.size(); ++i) {
    Require(std::abs(found[i] - expected[i]) <= tolerance * scale, what, path);
  }
}

float Rounded(float value, bool rounds) { return rounds ? vmoe::FromBf16(vmoe::ToBf16(value)) : value; }

double Gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

// y[rows, columns] = x[rows, depth] . w[depth, columns] + b[columns]
Doubles Product(const Doubles& x, const float* w, const float* b, size_t rows, size_t depth, size_t columns) {
  Doubles y(rows * columns);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; ++column) {
      double sum = b == nullptr ? 0 : b[column];
      for (size_t d = 0; d < depth; ++d) sum += x[row * depth + d] * w[d * columns + column];
      y[row * columns + column] = sum;
    }
  }
  return y;
}

std::shared_ptr<const PackedWeights> Pack(const Kernels& kernels, const void* data, bool bf16, size_t matrices,
                                          size_t depth, size_t columns) {
  StoredWeights stored;
  stored.data = data;
  stored.bf16 = bf16;
  stored.matrices = matrices;
  stored.depth = depth;
  stored.columns = columns;
  return PackedWeights::Shared(kernels, stored);
}

// Places by the definition: all first choices before any second one, tokens by descending best gate.
std::vector<int32_t> Places(const RoutingShape& shape, const Floats& gates) {
  const auto rank = [&](size_t token, size_t expert) {
    const float gate = gates[token * shape.experts + expert];
    return std::isnan(gate) ? 0.0F : gate;
  };
  std::vector<int32_t> slot(shape.groups * shape.tokens * shape.choices, -1);
  for (size_t group = 0; group < shape.groups; ++group) {
    std::vector<std::vector<size_t>> chosen(shape.tokens);
    std::vector<size_t> order(shape.tokens);
    std::iota(order.begin(), order.end(), 0);
    for (size_t token = 0; token < shape.tokens; ++token) {
      chosen[token].resize(shape.experts);
      std::iota(chosen[token].begin(), chosen[token].end(), 0);
      const size_t flat = group * shape.tokens + token;
      std::stable_sort(chosen[token].begin(), chosen[token].end(),
                       [&](size_t a, size_t b) { return rank(flat, a) > rank(flat, b); });
    }
    const auto best = [&](size_t token) { return rank(group * shape.tokens + token, chosen[token][0]); };
    if (shape.batch_priority) {
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return best(a) > best(b); });
    }
    std::vector<size_t> taken(shape.experts, 0);
    for (size_t choice = 0; choice < shape.choices; ++choice) {
      for (size_t token : order) {
        const size_t expert = chosen[token][choice];
        if (taken[expert] == shape.capacity) continue;
        const size_t place = expert * shape.places() + group * shape.capacity + taken[expert]++;
        slot[(group * shape.tokens + token) * shape.choices + choice] = static_cast<int32_t>(place);
      }
    }
  }
  return slot;
}

void CheckRouting(CpuPath path) {
  RoutingShape shape;
  shape.groups = Number(1, 3);
  shape.tokens = Number(1, 60);
  shape.experts = Number(1, 20);
  shape.choices = Number(1, shape.experts);
  shape.capacity = Number(1, 2 * shape.tokens);
  shape.batch_priority = Number(0, 1) == 1;
  const size_t tokens = shape.groups * shape.tokens;
  Floats gates(tokens * shape.experts);
  const float special[] = {0.0F, -0.0F, NAN, INFINITY, -INFINITY, 0.25F, 0.5F, 1e-40F};
  for (float& gate : gates) gate = Number(0, 3) == 0 ? special[Number(0, 7)] : static_cast<float>(Number(0, 40)) / 40;
  std::vector<int32_t> slot(tokens * shape.choices);
  std::vector<int32_t> src(shape.experts * shape.places());
  Floats weight(slot.size());
  vmoe::Route(shape, vmoe::ElementType::kFloat32, gates.data(), slot.data(), weight.data(), src.data(),
              vmoe::SerialRunner());
  Require(slot == Places(shape, gates), "routing", path);
  for (size_t pair = 0; pair < slot.size(); ++pair) {
    if (slot[pair] < 0) continue;
    Require(src[static_cast<size_t>(slot[pair])] == static_cast<int32_t>(pair / shape.choices), "src", path);
  }
}

void CheckSparseMlp(const Kernels& kernels, bool bf16) {
  RoutingShape shape;
  shape.groups = Number(1, 3);
  shape.tokens = Number(1, 30);
  shape.experts = Number(1, 6);
  shape.choices = Number(1, shape.experts);
  shape.capacity = Number(1, shape.tokens + 2);
  const size_t hidden = Number(1, 70);
  const size_t expert_hidden = Number(1, 130);
  const size_t tokens = shape.groups * shape.tokens;
  const Floats x = Normal(tokens * hidden, 1);
  const Floats router = Normal(hidden * shape.experts, 1);
  Floats w1 = Normal(shape.experts * hidden * expert_hidden, 0.2F);
  Floats w2 = Normal(shape.experts * hidden * expert_hidden, 0.2F);
  const Floats b1 = Normal(shape.experts * expert_hidden, 0.2F);
  const Floats b2 = Normal(shape.experts * hidden, 0.2F);
  std::vector<vmoe::Bf16> bits1;
  std::vector<vmoe::Bf16> bits2;
  for (float& value : w1) value = Rounded(value, bf16), bits1.push_back(vmoe::ToBf16(value));
  for (float& value : w2) value = Rounded(value, bf16), bits2.push_back(vmoe::ToBf16(value));

  vmoe::SparseMlpWeights weights;
  weights.router = Pack(kernels, router.data(), false, 1, hidden, shape.experts);
  const auto data = [&](const Floats& floats, const std::vector<vmoe::Bf16>& bits) {
    return bf16 ? static_cast<const void*>(bits.data()) : floats.data();
  };
  weights.experts.w1 = Pack(kernels, data(w1, bits1), bf16, shape.experts, hidden, expert_hidden);
  weights.experts.w2 = Pack(kernels, data(w2, bits2), bf16, shape.experts, expert_hidden, hidden);
  weights.experts.b1 = b1.data();
  weights.experts.b2 = b2.data();
  Floats y(x.size());
  Floats weight(tokens * shape.choices);
  std::vector<int32_t> slot(weight.size());
  vmoe::SparseMlp(weights, shape, false, x.data(), y.data(), slot.data(), weight.data(), vmoe::SerialRunner());

  Doubles expected(x.size(), 0);
  for (size_t pair = 0; pair < slot.size(); ++pair) {
    if (slot[pair] < 0) continue;
    const size_t token = pair / shape.choices;
    const size_t expert = static_cast<size_t>(slot[pair]) / shape.places();
    Doubles row;
    for (size_t d = 0; d < hidden; ++d) row.push_back(Rounded(x[token * hidden + d], bf16));
    const size_t first = expert * hidden * expert_hidden;
    Doubles activation = Product(row, &w1[first], &b1[expert * expert_hidden], 1, hidden, expert_hidden);
    for (double& value : activation) value = Rounded(static_cast<float>(Gelu(value)), bf16);
    const Doubles out = Product(activation, &w2[first], &b2[expert * hidden], 1, expert_hidden, hidden);
    for (size_t d = 0; d < hidden; ++d) expected[token * hidden + d] += weight[pair] * out[d];
  }
  // With bfloat16, sums that differ in their last bit may round to neighbours.
  RequireClose(y, expected, bf16 ? 5e-3 : 2e-6, bf16 ? "the sparse MLP in bfloat16" : "the sparse MLP", kernels.path);
}

void CheckAttention(const Kernels& kernels) {
  vmoe::AttentionShape shape;
  shape.images = Number(1, 2);
  shape.queries = Number(1, 20);
  shape.tokens = Number(1, 120);
  shape.heads = Number(1, 3);
  const size_t size = Number(1, 70);
  shape.hidden = shape.heads * size;
  const Floats q = Normal(shape.images * shape.queries * shape.hidden, 1);
  const Floats k = Normal(shape.images * shape.tokens * shape.hidden, 1);
  const Floats v = Normal(k.size(), 1);
  Floats y(q.size());
  vmoe::Attention(kernels, shape, q.data(), k.data(), v.data(), y.data(), vmoe::SerialRunner());
  Doubles expected(q.size(), 0);
  for (size_t row = 0; row < shape.images * shape.queries * shape.heads; ++row) {
    const size_t head = row % shape.heads * size;
    const size_t query = row / shape.heads;
    const size_t first = query / shape.queries * shape.tokens;
    Doubles share(shape.tokens);
    double sum = 0;
    for (size_t token = 0; token < shape.tokens; ++token) {
      double score = 0;
      for (size_t d = 0; d < size; ++d) {
        score += static_cast<double>(q[query * shape.hidden + head + d]) * k[(first + token) * shape.hidden + head + d];
      }
      share[token] = std::exp(score / std::sqrt(static_cast<double>(size)));
      sum += share[token];
    }
    for (size_t token = 0; token < shape.tokens; ++token) {
      for (size_t d = 0; d < size; ++d) {
        expected[query * shape.hidden + head + d] += share[token] / sum * v[(first + token) * shape.hidden + head + d];
      }
    }
  }
  RequireClose(y, expected, 2e-6, "attention", kernels.path);
}

void CheckLinear(const Kernels& kernels) {
  const size_t rows = Number(1, 300);
  const size_t depth = Number(1, 80);
  const size_t columns = Number(1, 120);
  const Floats x = Normal(rows * depth, 1);
  const Floats w = Normal(depth * columns, 0.2F);
  const Floats b = Normal(columns, 1);
  Floats y(rows * columns);
  vmoe::Linear(*Pack(kernels, w.data(), false, 1, depth, columns), b.data(), x.data(), rows, y.data(),
               vmoe::SerialRunner());
  RequireClose(y, Product(Doubles(x.begin(), x.end()), w.data(), b.data(), rows, depth, columns), 2e-6, "a dense layer",
               kernels.path);
}

}  // namespace

int main() {
  for (CpuPath path : {CpuPath::kScalar, CpuPath::kNeon, CpuPath::kAvx2, CpuPath::kAvx512, CpuPath::kAvx512Bf16}) {
    if (!vmoe::CpuPathSupported(path)) continue;
    const Kernels& kernels = vmoe::KernelsFor(path);
    Require(kernels.path == path, "the choice of kernels", path);
    for (int i = 0; i < 200; ++i) CheckRouting(path);
    for (int i = 0; i < 40; ++i) {
      CheckSparseMlp(kernels, false);
      CheckSparseMlp(kernels, true);
      CheckAttention(kernels);
      CheckLinear(kernels);
    }
    std::printf("%s: right\n", CpuPathName(path));
  }
  return 0;
}
