#include "ops/routing_settings.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "ops/op_error.h"

namespace vmoe::ops {
namespace {

// In the order of kNames.
constexpr int64_t kMinimum[] = {1, 1, 0, 0, 1};
constexpr int64_t kMaximum[] = {kNoMaximum, kNoMaximum, 1, 1, kNoMaximum};

// Slots and pairs of a token and an expert are numbered in int32. Factors are not negative.
void check_product(const char* what, std::initializer_list<std::pair<const char*, int64_t>> factors) {
  double count = 1;  // exact as far as it matters
  for (const auto& factor : factors) count *= static_cast<double>(factor.second);
  if (count <= INT32_MAX) return;
  std::string names, values;
  for (const auto& [name, value] : factors) {
    names += (names.empty() ? "" : " * ") + std::string(name);
    values += (values.empty() ? "" : " * ") + std::to_string(value);
  }
  throw OpError(std::string(what) + " are numbered in 32 bits, and " + names + " = " + values + " is too many");
}

int64_t size_of(const Sizes& sizes, char dim) { return static_cast<int64_t>(sizes[dim]); }

constexpr char kSlots[] = "slots";
constexpr char kChoices[] = "choices of tokens";

}  // namespace

void RoutingSettings::check() const {
  for (size_t i = 0; i < values.size(); ++i) {
    if (const std::optional<int64_t>& value = values[i]) check_range(kNames[i], *value, kMinimum[i], kMaximum[i]);
  }
}

int64_t RoutingSettings::known(size_t index) const {
  const std::optional<int64_t>& value = values[index];
  if (!value) throw OpError(std::string(kNames[index]) + " is neither an input nor an attribute");
  return *value;
}

RoutingShape RoutingSettings::routing_shape(Sizes& sizes) const {
  const int64_t groups = size_of(sizes, 'G');
  const int64_t experts = size_of(sizes, 'E');
  if (experts < 1) throw OpError("there are no experts");
  if (k() < 1 || k() > experts) {
    throw OpError("k must be between 1 and the number of experts, " + std::to_string(experts) + ", not " +
                  std::to_string(k()));
  }
  check();
  check_product(kSlots, {{"E", experts}, {"G", groups}, {"capacity", capacity()}});
  check_product(kChoices, {{"G", groups}, {"S", size_of(sizes, 'S')}, {"k", k()}});
  sizes.set('K', k());
  sizes.set('M', groups * capacity());
  RoutingShape shape;
  shape.groups = sizes['G'];
  shape.tokens = sizes['S'];
  shape.experts = sizes['E'];
  shape.choices = sizes['K'];
  shape.capacity = static_cast<size_t>(capacity());
  shape.batch_priority = bpr() == 1;
  shape.pool = values[3] == 1;
  shape.max_experts = static_cast<size_t>(std::min(values[4].value_or(experts), experts));
  return shape;
}

RoutingSettings read_routing_settings(const OpSpec& spec, const ReadAttribute& read) {
  RoutingSettings settings;
  for (size_t i = 0; i < spec.settings(); ++i) settings.values[i] = read(RoutingSettings::kNames[i]);
  settings.check();
  return settings;
}

void check_numbering(const Sizes& sizes) {
  if (sizes.has('E') && sizes.has('M')) {
    check_product(kSlots, {{"E", size_of(sizes, 'E')}, {"M", size_of(sizes, 'M')}});
  }
  if (sizes.has('G') && sizes.has('S') && sizes.has('K')) {
    check_product(kChoices, {{"G", size_of(sizes, 'G')}, {"S", size_of(sizes, 'S')}, {"K", size_of(sizes, 'K')}});
  }
}

}  // namespace vmoe::ops
