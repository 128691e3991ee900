// Holds the core to plain loops in double precision, on every CPU path that this machine has. Prints one line per path.
// May be given how many rounds the scalar path gets, where an emulator makes them long.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "core/amx.h"
#include "core/attention.h"
#include "core/attention_block.h"
#include "core/bfloat16.h"
#include "core/cpu_path.h"
#include "core/kernels.h"
#include "core/linear.h"
#include "core/sparse_mlp.h"
#include "core/tile_attention.h"

namespace {

using vmoe::CpuPath;
using vmoe::ElementType;
using vmoe::ExpertWeights;
using vmoe::Kernels;
using vmoe::PackedWeights;
using vmoe::RoutingShape;
using vmoe::StoredWeights;
using Doubles = std::vector<double>;
using Floats = std::vector<float>;

std::mt19937 random_bits(7);  // NOLINT: the same numbers every time

size_t random_number(size_t least, size_t most) { return least + random_bits() % (most - least + 1); }

Floats random_floats(size_t count, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  Floats values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

void require(bool holds, const char* what, CpuPath path) {
  if (holds) return;
  std::printf("%s: %s is wrong\n", cpu_path_name(path), what);
  std::exit(1);
}

double find_largest(const Floats& values) {
  double largest = 1;
  for (float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

void require_close(const Floats& found, const Doubles& expected, double tolerance, const char* what, CpuPath path) {
  const double scale = find_largest(found);
  for (size_t i = 0; i < found.size(); ++i) {
    require(std::abs(found[i] - expected[i]) <= tolerance * scale, what, path);
  }
}

float rounded(float value, bool rounds) { return rounds ? vmoe::from_bf16(vmoe::to_bf16(value)) : value; }

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

// y[rows, columns] = x[rows, depth] . w[depth, columns] + b[columns]
Doubles multiply(const Doubles& x, const float* w, const float* b, size_t rows, size_t depth, size_t columns) {
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

// Weights of some type as they are stored, with the values that they stand for.
struct Matrix {
  ElementType type = ElementType::kFloat32;
  size_t matrices = 1, depth = 0, columns = 0;
  Floats values;
  std::vector<char> stored;
  Floats scale;  // of int8, by column

  std::shared_ptr<const PackedWeights> pack(const Kernels& kernels, size_t column_parts = 1, size_t depth_parts = 1,
                                            size_t chunk = 0) const {
    StoredWeights weights;
    weights.data = stored.data();
    weights.type = type;
    weights.matrices = matrices;
    weights.depth = depth;
    weights.columns = columns;
    weights.column_parts = column_parts;
    weights.depth_parts = depth_parts;
    weights.depth_chunk = chunk;
    return PackedWeights::share(kernels, weights);
  }
};

template <class T>
void store(const std::vector<T>& values, std::vector<char>& stored) {
  stored.resize(values.size() * sizeof(T));
  std::memcpy(stored.data(), values.data(), stored.size());
}

Matrix random_matrix(ElementType type, size_t matrices, size_t depth, size_t columns, float deviation = 0.2F) {
  Matrix matrix{type, matrices, depth, columns, random_floats(matrices * depth * columns, deviation), {}, {}};
  Floats& values = matrix.values;
  if (type == ElementType::kFloat32) {
    store(values, matrix.stored);
  } else if (type == ElementType::kBfloat16) {
    std::vector<vmoe::Bf16> bits;
    for (float& value : values) bits.push_back(vmoe::to_bf16(value)), value = vmoe::from_bf16(bits.back());
    store(bits, matrix.stored);
  } else {
    std::vector<int8_t> whole(values.size());
    for (size_t m = 0; m < matrices; ++m) {
      for (size_t c = 0; c < columns; ++c) {
        const auto at = [&](size_t d) { return (m * depth + d) * columns + c; };
        float most = 0;
        for (size_t d = 0; d < depth; ++d) most = std::max(most, std::abs(values[at(d)]));
        matrix.scale.push_back(most == 0 ? 1 : most / 127);
        for (size_t d = 0; d < depth; ++d) {
          whole[at(d)] = static_cast<int8_t>(std::lrint(values[at(d)] / matrix.scale.back()));
          values[at(d)] = static_cast<float>(whole[at(d)]) * matrix.scale.back();
        }
      }
    }
    store(whole, matrix.stored);
  }
  return matrix;
}

// What enters a product: rounded or quantized, row by row, in chunks of the depth; 0 is all of it.
void enter_row(ElementType type, double* row, size_t depth, size_t chunk) {
  if (type == ElementType::kFloat32) return;
  if (chunk == 0) chunk = depth;
  for (size_t first = 0; first < depth; first += chunk) {
    float most = 0;
    for (size_t i = first; i < first + chunk; ++i) most = std::max(most, static_cast<float>(std::abs(row[i])));
    const float scale = most == 0 ? 1 : most / 127;
    for (size_t i = first; i < first + chunk; ++i) {
      const auto value = static_cast<float>(row[i]);
      row[i] =
          type == ElementType::kBfloat16 ? rounded(value, true) : std::rint(value / scale) * static_cast<double>(scale);
    }
  }
}

Doubles enter_all(ElementType type, Doubles rows, size_t depth, size_t chunk = 0) {
  for (size_t row = 0; row * depth < rows.size(); ++row) enter_row(type, &rows[row * depth], depth, chunk);
  return rows;
}

// Float32 sums are exact to the last bits. Where sums are rounded again, some round to neighbours: in int8 by a 127th
// of the largest value of a row.
double tolerance_of(ElementType type) {
  return type == ElementType::kFloat32 ? 2e-6 : type == ElementType::kBfloat16 ? 6e-3 : 2.5e-2;
}

// Places by the definition: all first choices before any second one, tokens by descending best gate.
std::vector<int32_t> find_slots(const RoutingShape& shape, const Floats& gates) {
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

void check_routing(CpuPath path) {
  RoutingShape shape;
  shape.groups = random_number(1, 3);
  shape.tokens = random_number(1, 60);
  shape.experts = random_number(1, 20);
  shape.choices = random_number(1, shape.experts);
  shape.capacity = random_number(1, 2 * shape.tokens);
  shape.batch_priority = random_number(0, 1) == 1;
  const size_t tokens = shape.groups * shape.tokens;
  Floats gates(tokens * shape.experts);
  const float special[] = {0.0F, -0.0F, NAN, INFINITY, -INFINITY, 0.25F, 0.5F, 1e-40F};
  for (float& gate : gates)
    gate = random_number(0, 3) == 0 ? special[random_number(0, 7)] : static_cast<float>(random_number(0, 40)) / 40;
  std::vector<int32_t> slot(tokens * shape.choices);
  std::vector<int32_t> src(shape.experts * shape.places());
  Floats weight(slot.size());
  vmoe::route(shape, vmoe::ElementType::kFloat32, gates.data(), slot.data(), weight.data(), src.data(),
              vmoe::serial_runner());
  require(slot == find_slots(shape, gates), "routing", path);
  for (size_t pair = 0; pair < slot.size(); ++pair) {
    if (slot[pair] < 0) continue;
    require(src[static_cast<size_t>(slot[pair])] == static_cast<int32_t>(pair / shape.choices), "src", path);
  }
}

void check_sparse_mlp(const Kernels& kernels, ElementType type) {
  RoutingShape shape;
  shape.groups = random_number(1, 3);
  shape.tokens = random_number(1, 30);
  shape.experts = random_number(1, 6);
  shape.choices = random_number(1, shape.experts);
  shape.capacity = random_number(1, shape.tokens + 2);
  const size_t chunk = type == ElementType::kInt8 && random_number(0, 1) == 1 ? 64 : 0;
  const size_t hidden = random_number(1, 70);
  const size_t expert_hidden = chunk == 0 ? random_number(1, 130) : chunk * random_number(1, 3);
  const size_t tokens = shape.groups * shape.tokens;
  const Floats x = random_floats(tokens * hidden, 1);
  const Matrix router = random_matrix(ElementType::kFloat32, 1, hidden, shape.experts, 1);
  const Matrix w1 = random_matrix(type, shape.experts, hidden, expert_hidden);
  const Matrix w2 = random_matrix(type, shape.experts, expert_hidden, hidden);
  const Floats b1 = random_floats(shape.experts * expert_hidden, 0.2F);
  const Floats b2 = random_floats(shape.experts * hidden, 0.2F);

  vmoe::SparseMlpWeights weights;
  weights.router = router.pack(kernels);
  weights.experts.w1 = w1.pack(kernels);
  weights.experts.w2 = w2.pack(kernels, 1, 1, chunk);
  weights.experts.b1 = b1.data();
  weights.experts.b2 = b2.data();
  weights.experts.w1_scale = w1.scale.data();
  weights.experts.w2_scale = w2.scale.data();
  weights.experts.hidden_chunk = chunk;
  Floats y(x.size());
  Floats weight(tokens * shape.choices);
  std::vector<int32_t> slot(weight.size());
  vmoe::compute_sparse_mlp(weights, shape, false, x.data(), y.data(), slot.data(), weight.data(),
                           vmoe::serial_runner());

  Doubles expected(x.size(), 0);
  for (size_t pair = 0; pair < slot.size(); ++pair) {
    if (slot[pair] < 0) continue;
    const size_t token = pair / shape.choices;
    const size_t expert = static_cast<size_t>(slot[pair]) / shape.places();
    const auto from = x.begin() + static_cast<ptrdiff_t>(token * hidden);
    const Doubles row = enter_all(type, Doubles(from, from + static_cast<ptrdiff_t>(hidden)), hidden);
    const size_t first = expert * hidden * expert_hidden;
    Doubles activation = multiply(row, &w1.values[first], &b1[expert * expert_hidden], 1, hidden, expert_hidden);
    for (double& value : activation) value = gelu(value);
    activation = enter_all(type, activation, expert_hidden, chunk);
    const Doubles out = multiply(activation, &w2.values[first], &b2[expert * hidden], 1, expert_hidden, hidden);
    for (size_t d = 0; d < hidden; ++d) expected[token * hidden + d] += weight[pair] * out[d];
  }
  require_close(y, expected, tolerance_of(type), "the sparse MLP", kernels.path);
}

// softmax(q . k / sqrt(size)) . v, head by head.
Doubles mix(const vmoe::AttentionShape& shape, const Doubles& q, const Doubles& k, const Doubles& v) {
  const size_t size = shape.hidden / shape.heads;
  Doubles mixed(q.size(), 0);
  for (size_t row = 0; row < shape.images * shape.queries * shape.heads; ++row) {
    const size_t head = row % shape.heads * size;
    const size_t query = row / shape.heads;
    const size_t first = query / shape.queries * shape.tokens;
    Doubles share(shape.tokens);
    double sum = 0;
    for (size_t token = 0; token < shape.tokens; ++token) {
      double score = 0;
      for (size_t d = 0; d < size; ++d) {
        score += q[query * shape.hidden + head + d] * k[(first + token) * shape.hidden + head + d];
      }
      share[token] = std::exp(score / std::sqrt(static_cast<double>(size)));
      sum += share[token];
    }
    for (size_t token = 0; token < shape.tokens; ++token) {
      for (size_t d = 0; d < size; ++d) {
        mixed[query * shape.hidden + head + d] += share[token] / sum * v[(first + token) * shape.hidden + head + d];
      }
    }
  }
  return mixed;
}

void check_attention(const Kernels& kernels) {
  vmoe::AttentionShape shape;
  shape.images = random_number(1, 2);
  shape.queries = random_number(1, 20);
  shape.tokens = random_number(1, 120);
  shape.heads = random_number(1, 3);
  const size_t size = random_number(1, 70);
  shape.hidden = shape.heads * size;
  const Floats q = random_floats(shape.images * shape.queries * shape.hidden, 1);
  const Floats k = random_floats(shape.images * shape.tokens * shape.hidden, 1);
  const Floats v = random_floats(k.size(), 1);
  Floats y(q.size());
  const auto wide = [](const Floats& values) { return Doubles(values.begin(), values.end()); };
  vmoe::compute_attention(kernels, shape, q.data(), k.data(), v.data(), y.data(), vmoe::serial_runner());
  require_close(y, mix(shape, wide(q), wide(k), wide(v)), 2e-6, "attention", kernels.path);
  vmoe::compute_tile_attention(vmoe::tile_kernels_for(kernels.path), shape, q.data(), k.data(), v.data(), y.data(),
                               vmoe::serial_runner());
  const auto enters = [&](const Floats& values) {
    return enter_all(ElementType::kBfloat16, wide(values), shape.hidden);
  };
  require_close(y, mix(shape, enters(q), enters(k), enters(v)), 6e-3, "attention in bfloat16", kernels.path);
}

void check_attention_block(const Kernels& kernels, ElementType type) {
  vmoe::AttentionShape shape;
  shape.images = random_number(1, 5);
  shape.queries = shape.tokens = random_number(1, 60);
  shape.heads = random_number(1, 3);
  shape.hidden = shape.heads * random_number(1, 40);
  const size_t rows = shape.images * shape.tokens, width = shape.hidden;
  const Floats x = random_floats(rows * width, 1), scale = random_floats(width, 1), bias = random_floats(width, 1);
  const Floats b[4] = {random_floats(width, 1), random_floats(width, 1), random_floats(width, 1),
                       random_floats(width, 1)};
  std::vector<Matrix> w;
  w.reserve(4);
  for (size_t i = 0; i < 4; ++i) w.push_back(random_matrix(type, 1, width, width));
  vmoe::AttentionBlockWeights weights;
  std::shared_ptr<const PackedWeights> packed[4];
  vmoe::LinearWeights* linears[4] = {&weights.query, &weights.key, &weights.value, &weights.out};
  for (size_t i = 0; i < 4; ++i) {
    packed[i] = i < 3 ? w[i].pack(kernels, shape.heads) : w[i].pack(kernels, 1, shape.heads);
    *linears[i] = {packed[i].get(), b[i].data(), w[i].scale.data()};
  }
  weights.norm = {scale.data(), bias.data()};
  weights.heads = shape.heads;
  Floats y(x.size());
  vmoe::compute_attention_block(weights, shape.images, shape.tokens, x.data(), y.data(), vmoe::serial_runner());
  Floats in_place = x;
  vmoe::compute_attention_block(weights, shape.images, shape.tokens, in_place.data(), in_place.data(),
                                vmoe::serial_runner());
  require(std::memcmp(y.data(), in_place.data(), y.size() * sizeof(float)) == 0, "attention in place", kernels.path);

  Doubles normed(x.size());
  for (size_t row = 0; row < rows; ++row) {
    const float* from = &x[row * width];
    const double mean = std::accumulate(from, from + width, 0.0) / static_cast<double>(width);
    double variance = 0;
    for (size_t d = 0; d < width; ++d) variance += (from[d] - mean) * (from[d] - mean) / static_cast<double>(width);
    for (size_t d = 0; d < width; ++d) {
      normed[row * width + d] = (from[d] - mean) / std::sqrt(variance + 1e-6) * scale[d] + bias[d];
    }
  }
  normed = enter_all(type, normed, width);
  Doubles projected[3];
  for (size_t i = 0; i < 3; ++i) {
    projected[i] = multiply(normed, w[i].values.data(), b[i].data(), rows, width, width);
    if (type != ElementType::kFloat32) projected[i] = enter_all(ElementType::kBfloat16, projected[i], width);
  }
  const Doubles mixed = enter_all(type, mix(shape, projected[0], projected[1], projected[2]), width);
  Doubles expected = multiply(mixed, w[3].values.data(), b[3].data(), rows, width, width);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += x[i];
  // Shares are sharp here, and follow what was rounded before.
  require_close(y, expected, 10 * tolerance_of(type), "an attention block", kernels.path);
}

void check_linear(const Kernels& kernels, ElementType type) {
  const size_t rows = random_number(1, 300);
  const size_t depth = random_number(1, 80);
  const size_t columns = random_number(1, 120);
  const Floats x = random_floats(rows * depth, 1);
  const Matrix w = random_matrix(type, 1, depth, columns);
  const Floats b = random_floats(columns, 1);
  Floats y(rows * columns);
  const auto packed = w.pack(kernels);
  vmoe::compute_linear({packed.get(), b.data(), w.scale.data()}, x.data(), rows, y.data(), vmoe::serial_runner());
  const Doubles entered = enter_all(type, Doubles(x.begin(), x.end()), depth);
  // One product: nothing is rounded after it.
  require_close(y, multiply(entered, w.values.data(), b.data(), rows, depth, columns), 2e-6, "a dense layer",
                kernels.path);
}

#if defined(__x86_64__) && defined(__linux__)
// As instructions, so that no compiler needs to know them.
vmoe::TileConfiguration tile_registers() {
  vmoe::TileConfiguration configuration;
  asm volatile("sttilecfg %0" : "=m"(configuration));
  return configuration;
}

void set_tile_registers(const vmoe::TileConfiguration& configuration) {
  if (configuration.palette == 0) {
    asm volatile("tilerelease");
  } else {
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
}

vmoe::TileConfiguration eight_tiles(uint8_t rows, uint16_t line_bytes) {
  vmoe::TileConfiguration configuration;
  configuration.palette = 1;
  std::fill_n(configuration.rows, 8, rows);
  std::fill_n(configuration.line_bytes, 8, line_bytes);
  return configuration;
}

// Layers on this thread find its tile registers in any configuration, and leave them in that.
void check_tile_configuration(const Kernels& kernels) {
  if (!vmoe::tile_kernels_for(kernels.path).needs_tile_configuration) return;
  const vmoe::TileConfiguration configurations[] = {{}, eight_tiles(16, 64), eight_tiles(5, 20)};
  for (const vmoe::TileConfiguration& before : configurations) {
    const auto requires_it = [&](const std::function<void()>& check) {
      set_tile_registers(before);
      check();
      const vmoe::TileConfiguration after = tile_registers();
      require(std::memcmp(&after, &before, sizeof(after)) == 0, "the tile registers' configuration", kernels.path);
    };
    for (ElementType type : {ElementType::kBfloat16, ElementType::kInt8}) {
      requires_it([&] { check_linear(kernels, type); });
      requires_it([&] { check_sparse_mlp(kernels, type); });
      requires_it([&] { check_attention_block(kernels, type); });
    }
    requires_it([&] { check_attention(kernels); });
  }
  set_tile_registers({});
}
#else
void check_tile_configuration(const Kernels&) {}
#endif

}  // namespace

int main(int argc, char** argv) {
  const int scalar_rounds = argc > 1 ? std::atoi(argv[1]) : 40;
  for (int i = 0; i < 200; ++i) check_routing(CpuPath::kScalar);  // it has no paths
  for (CpuPath path : {CpuPath::kScalar, CpuPath::kNeon, CpuPath::kAvx2, CpuPath::kAvx2Vnni, CpuPath::kAvx512,
                       CpuPath::kAvx512Vnni, CpuPath::kAvx512Bf16, CpuPath::kAmx, CpuPath::kAmxEmulated}) {
    if (!vmoe::cpu_path_supported(path)) continue;
    const Kernels& kernels = vmoe::kernels_for(path);
    require(kernels.path == path, "the choice of kernels", path);
    for (int i = 0; i < (path == CpuPath::kScalar ? scalar_rounds : 40); ++i) {
      for (ElementType type : {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kInt8}) {
        check_sparse_mlp(kernels, type);
        check_attention_block(kernels, type);
        check_linear(kernels, type);
      }
      check_attention(kernels);
    }
    check_tile_configuration(kernels);
    std::printf("%s: right\n", cpu_path_name(path));
  }
  return 0;
}
