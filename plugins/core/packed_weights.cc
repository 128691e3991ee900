#include "core/packed_weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

namespace vmoe {
namespace {

// Calls visit(first element, matrix, panel) for each panel of stored weights of element type T.
template <class T, class Visit>
bool ForEachPanel(const PackedWeights& packed, const StoredWeights& weights, Visit&& visit) {
  const auto* data = static_cast<const T*>(weights.data);
  for (size_t matrix = 0; matrix < packed.matrices(); ++matrix) {
    for (size_t panel = 0; panel < packed.panels(); ++panel) {
      const size_t first = matrix * weights.depth * weights.columns + panel * packed.kernels().panel_columns;
      if (!visit(data + first, matrix, panel)) return false;
    }
  }
  return true;
}

template <class T>
void PackAll(const PackedWeights& packed, const StoredWeights& weights) {
  ForEachPanel<T>(packed, weights, [&](const T* from, size_t matrix, size_t panel) {
    PackPanel(packed.kernels(), from, weights.columns, weights.depth, packed.PanelColumns(panel),
              static_cast<T*>(const_cast<void*>(packed.Panel(matrix, panel))));
    return true;
  });
}

template <class T>
bool AllHold(const PackedWeights& packed, const StoredWeights& weights) {
  return ForEachPanel<T>(packed, weights, [&](const T* want, size_t matrix, size_t panel) {
    return PanelHolds(packed.kernels(), want, weights.columns, weights.depth, packed.PanelColumns(panel),
                      static_cast<const T*>(packed.Panel(matrix, panel)));
  });
}

// Tells most weights apart by a few of their values; what it can't tell apart is compared in full.
uint64_t Sample(const StoredWeights& weights) {
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

using Key = std::tuple<uint64_t, bool, size_t, size_t, size_t>;

struct Registry {
  std::mutex mutex;
  std::multimap<Key, std::weak_ptr<const PackedWeights>> packed;
};

// Never destroyed: sessions may be released while the process ends.
Registry& GetRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

}  // namespace

PackedWeights::PackedWeights(const Kernels& kernels, const StoredWeights& weights)
    : kernels_(kernels),
      bf16_(weights.bf16),
      matrices_(weights.matrices),
      depth_(weights.depth),
      columns_(weights.columns),
      panels_((weights.columns + kernels.panel_columns - 1) / kernels.panel_columns),
      element_bytes_(weights.bf16 ? sizeof(Bf16) : sizeof(float)),
      panel_bytes_(PanelElements(kernels, depth_, std::min(kernels.panel_columns, columns_), bf16_) * element_bytes_) {
  if (panels_ > 0) {
    const size_t last = PanelElements(kernels, depth_, PanelColumns(panels_ - 1), bf16_) * element_bytes_;
    matrix_bytes_ = (panels_ - 1) * panel_bytes_ + last;
  }
  buffer_ = PageBuffer(matrices_ * matrix_bytes_);
  bf16_ ? PackAll<Bf16>(*this, weights) : PackAll<float>(*this, weights);
}

std::shared_ptr<const PackedWeights> PackedWeights::Shared(const Kernels& kernels, const StoredWeights& weights) {
  const Key key{Sample(weights), weights.bf16, weights.matrices, weights.depth, weights.columns};
  Registry& registry = GetRegistry();
  // Held while packing: of two sessions that load at once, the second waits and then shares.
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto [first, last] = registry.packed.equal_range(key);
  for (auto entry = first; entry != last;) {
    if (auto packed = entry->second.lock()) {
      if (&packed->kernels() == &kernels && packed->Holds(weights)) return packed;
      ++entry;
    } else {
      entry = registry.packed.erase(entry);
    }
  }
  auto packed = std::make_shared<const PackedWeights>(kernels, weights);
  registry.packed.emplace(key, packed);
  return packed;
}

size_t PackedWeights::PanelColumns(size_t panel) const {
  return std::min(kernels_.panel_columns, columns_ - panel * kernels_.panel_columns);
}

size_t PackedWeights::PanelBytes(size_t panel) const {
  return PanelElements(kernels_, depth_, PanelColumns(panel), bf16_) * element_bytes_;
}

const void* PackedWeights::Panel(size_t matrix, size_t panel) const {
  return static_cast<const char*>(buffer_.data()) + matrix * matrix_bytes_ + panel * panel_bytes_;
}

bool PackedWeights::Holds(const StoredWeights& weights) const {
  if (weights.bf16 != bf16_ || weights.matrices != matrices_ || weights.depth != depth_ ||
      weights.columns != columns_) {
    return false;
  }
  return bf16_ ? AllHold<Bf16>(*this, weights) : AllHold<float>(*this, weights);
}

}  // namespace vmoe
