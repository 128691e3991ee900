#include "core/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

namespace vmoe {
namespace {

template <class T, size_t kGroupBytes>
void pack(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to) {
  constexpr size_t kGroup = kGroupBytes / sizeof(T);
  constexpr size_t kGroups = kLineBytes / kGroupBytes;  // of a step
  const size_t column = panel * kPanelColumns;
  const size_t count = std::min(kPanelColumns, weights.columns - column);
  const T* from = static_cast<const T*>(weights.data) + matrix * weights.depth * weights.columns + column;
  T rows[kGroup][kPanelColumns] = {};
  for (size_t group = 0; group < steps * kGroups; ++group) {
    for (size_t i = 0; i < kGroup; ++i) {
      const size_t place = group * kGroup + i;
      if (place < weights.depth) {
        std::memcpy(rows[i], from + place * weights.columns, count * sizeof(T));
      } else {
        std::memset(rows[i], 0, sizeof(rows[i]));
      }
    }
    char* columns = to + group / kGroups * kPanelStepBytes + group % kGroups * kGroupBytes * kRowsPerTile;
    for (size_t half = 0; half < 2; ++half) {
      T* out = reinterpret_cast<T*>(columns + half * kTileBytes);
      for (size_t c = 0; c < kPanelColumns / 2; ++c) {
        for (size_t i = 0; i < kGroup; ++i) out[c * kGroup + i] = rows[i][half * kPanelColumns / 2 + c];
      }
    }
  }
}

void pack_int4(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, size_t group_bytes, char* to) {
  const size_t column = panel * kPanelColumns;
  const size_t count = std::min(kPanelColumns, weights.columns - column);
  const auto* data = static_cast<const uint8_t*>(weights.data);
  const auto* scale = static_cast<const uint16_t*>(weights.scale) + matrix * steps * weights.columns + column;
  for (size_t step = 0; step < steps; ++step, to += weight_type(ElementType::kInt4).panel_step_bytes) {
    std::memset(to, kInt4Excess << 4 | kInt4Excess, kTileBytes);
    std::memset(to + kTileBytes, 0, kLineBytes);
    std::memcpy(to + kTileBytes, scale + step * weights.columns, count * sizeof(*scale));
    for (size_t i = 0; i < std::min(kScaleGroup, weights.depth - step * kScaleGroup); ++i) {
      const size_t first = (matrix * weights.depth + step * kScaleGroup + i) * weights.columns + column;
      const size_t group = i / group_bytes;
      char* columns = to + group / 2 * group_bytes * kRowsPerTile + i % group_bytes;
      for (size_t c = 0; c < count; ++c) {
        // For a four-bit two's complement number, adding 8 is the same as flipping the highest bit.
        const int value = (data[(first + c) / 2] >> (first + c) % 2 * 4 & 0xf) ^ kInt4Excess;
        char& byte = columns[c / kRowsPerTile * (kTileBytes / 2) + c % kRowsPerTile * group_bytes];
        byte = static_cast<char>(group % 2 == 0 ? (byte & 0xf0) | value : (byte & 0xf) | value << 4);
      }
    }
  }
}

// Packs one panel of a matrix into tiles at `to`. The packed panel has `steps` steps.
void pack_tile_panel(const Kernels& kernels, const StoredWeights& weights, size_t matrix, size_t panel, size_t steps,
                     char* to) {
  const size_t group_bytes = kernels.group_bytes(weights.type);
  if (weights.type == ElementType::kInt4) return pack_int4(weights, matrix, panel, steps, group_bytes, to);
  const bool least = group_bytes == kLeastGroupBytes;
  const auto pack_bytes = least ? pack<uint8_t, kLeastGroupBytes> : pack<uint8_t, 2 * kLeastGroupBytes>;
  const auto pack_halves = least ? pack<uint16_t, kLeastGroupBytes> : pack<uint16_t, 2 * kLeastGroupBytes>;
  (weights.type == ElementType::kInt8 ? pack_bytes : pack_halves)(weights, matrix, panel, steps, to);
}

// Computes 128 times the sum of each of the 32 columns of a packed int8 panel, and stores the results in `excess`.
void column_excess_of_panel(const char* panel, size_t steps, int32_t* excess) {
  std::fill(excess, excess + kPanelColumns, 0);
  const auto* weights = reinterpret_cast<const int8_t*>(panel);
  for (size_t tile = 0; tile < 2 * steps; ++tile) {
    for (size_t i = 0; i < kTileBytes; ++i) {
      excess[tile % 2 * kPanelColumns / 2 + i % kLineBytes / kLeastGroupBytes] += weights[tile * kTileBytes + i];
    }
  }
  for (size_t column = 0; column < kPanelColumns; ++column) excess[column] *= 128;
}

// Returns a hash of a sample of the weights. Different weights rarely have the same hash. If two hashes are equal, the
// weights are compared in full.
uint64_t sample(const StoredWeights& weights) {
  constexpr size_t kSamples = 256;
  const size_t bytes = weights.bytes();
  const auto* data = static_cast<const unsigned char*>(weights.data);
  uint64_t hash = 14695981039346656037u;
  const size_t step = std::max<size_t>(bytes / kSamples, 8);
  for (size_t place = 0; place + 8 <= bytes; place += step) {
    uint64_t word;
    std::memcpy(&word, data + place, sizeof(word));
    hash = (hash ^ word) * 1099511628211u;
    hash ^= hash >> 29;
  }
  return hash;
}

using Key = std::tuple<uint64_t, ElementType, size_t, size_t, size_t, size_t>;

Key key_of(const StoredWeights& weights) {
  return {sample(weights), weights.type, weights.matrices, weights.depth, weights.columns, weights.depth_chunk};
}

struct Registry {
  std::mutex mutex;
  std::multimap<Key, std::weak_ptr<const PackedWeights>> packed;
};

// The registry is never destroyed, because weights may be released while the process ends.
Registry& get_registry() {
  static auto* registry = new Registry;
  return *registry;
}

}  // namespace

PackedWeights::PackedWeights(const Kernels& kernels, const StoredWeights& weights) : kernels_(kernels), form_(weights) {
  form_.data = form_.scale = nullptr;
  if (weight_type(type()).in_tiles()) {
    panel_columns_ = kPanelColumns;
    panels_ = divide_up(weights.columns, kPanelColumns);
    panel_bytes_ = steps() * weight_type(type()).panel_step_bytes;
    matrix_bytes_ = panels_ * panel_bytes_;
  } else {
    panel_columns_ = kernels.panel_columns;
    panels_ = divide_up(weights.columns, kernels.panel_columns);
    panel_bytes_ = panel_elements(kernels, depth(), std::min(kernels.panel_columns, columns())) * sizeof(float);
    if (panels_ > 0) matrix_bytes_ = (panels_ - 1) * panel_bytes_ + bytes_of_panel(panels_ - 1);
  }
  buffer_ = PageBuffer(matrices() * matrix_bytes_);
  for (size_t matrix = 0; matrix < matrices(); ++matrix) {
    for (size_t panel = 0; panel < panels_; ++panel) {
      pack_panel(weights, matrix, panel, const_cast<char*>(panel_at(matrix, panel)));
    }
  }
  if (weight_type(type()).scales == Scales::kColumns && kernels.unsigned_rows) {
    column_excess_.resize(matrices() * chunks() * padded_columns());
    int32_t* excess = column_excess_.data();
    for (size_t matrix = 0; matrix < matrices(); ++matrix) {
      for (size_t step = 0; step < steps(); step += chunk_steps()) {
        for (size_t panel = 0; panel < panels_; ++panel, excess += kPanelColumns) {
          column_excess_of_panel(panel_at(matrix, panel) + step * kPanelStepBytes,
                                 std::min(chunk_steps(), steps() - step), excess);
        }
      }
    }
  }
}

std::shared_ptr<const PackedWeights> PackedWeights::share(const Kernels& kernels, const StoredWeights& weights) {
  const Key key = key_of(weights);
  Registry& registry = get_registry();
  // The lock is kept during packing. If two threads load the same weights at once, the second thread waits and then
  // shares the first thread's result.
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto [first, last] = registry.packed.equal_range(key);
  for (auto entry = first; entry != last;) {
    if (auto packed = entry->second.lock()) {
      if (&packed->kernels() == &kernels && packed->holds(weights)) return packed;
      ++entry;
    } else {
      entry = registry.packed.erase(entry);
    }
  }
  auto packed = std::make_shared<const PackedWeights>(kernels, weights);
  registry.packed.emplace(key, packed);
  return packed;
}

size_t PackedWeights::steps() const { return steps_of_depth(type(), depth()); }

size_t PackedWeights::columns_of_panel(size_t panel) const {
  return std::min(panel_columns_, columns() - panel * panel_columns_);
}

size_t PackedWeights::bytes_of_panel(size_t panel) const {
  if (weight_type(type()).in_tiles()) return panel_bytes_;
  return panel_elements(kernels_, depth(), columns_of_panel(panel)) * sizeof(float);
}

const char* PackedWeights::panel_at(size_t matrix, size_t panel) const {
  return static_cast<const char*>(buffer_.data()) + matrix * matrix_bytes_ + panel * panel_bytes_;
}

const int32_t* PackedWeights::column_excess(size_t matrix, size_t first_step) const {
  if (column_excess_.empty()) return nullptr;
  return &column_excess_[(matrix * chunks() + first_step / chunk_steps()) * padded_columns()];
}

size_t PackedWeights::chunk_steps() const {
  return form_.depth_chunk == 0 ? std::max<size_t>(steps(), 1) : steps_of_depth(type(), form_.depth_chunk);
}

size_t PackedWeights::chunks() const { return divide_up(steps(), chunk_steps()); }

void PackedWeights::pack_panel(const StoredWeights& weights, size_t matrix, size_t panel, char* to) const {
  if (weight_type(type()).in_tiles()) return pack_tile_panel(kernels_, weights, matrix, panel, steps(), to);
  const auto* from = static_cast<const float*>(weights.data) + matrix * depth() * columns() + panel * panel_columns_;
  vmoe::pack_panel(kernels_, from, columns(), depth(), columns_of_panel(panel), reinterpret_cast<float*>(to));
}

bool PackedWeights::holds(const StoredWeights& weights) const {
  if (panel_bytes_ == 0) return true;
  std::vector<char> expected(panel_bytes_);
  for (size_t matrix = 0; matrix < matrices(); ++matrix) {
    for (size_t panel = 0; panel < panels_; ++panel) {
      pack_panel(weights, matrix, panel, expected.data());
      if (std::memcmp(expected.data(), panel_at(matrix, panel), bytes_of_panel(panel)) != 0) return false;
    }
  }
  return true;
}

}  // namespace vmoe
