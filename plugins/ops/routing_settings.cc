#include "ops/routing_settings.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "ops/op_error.h"

namespace vmoe::ops {
namespace {

// Of capacity, k and bpr.
constexpr int64_t kMinimum[] = {1, 1, 0};
constexpr int64_t kMaximum[] = {kNoMaximum, kNoMaximum, 1};

// Of pool and max_experts.
constexpr int64_t kPolicyMinimum[] = {0, 1};
constexpr int64_t kPolicyMaximum[] = {1, kNoMaximum};

struct Factor {
  const char* name;
  int64_t value;  // not negative
};

// Places and pairs of a token and an expert are numbered in int32.
void CheckProduct(const char* what, std::initializer_list<Factor> factors) {
  int64_t count = 1;
  bool fits = true;
  for (const Factor& factor : factors) {
    if (factor.value == 0) return;
    fits = fits && factor.value <= INT32_MAX / count;
    if (fits) count *= factor.value;
  }
  if (fits) return;
  std::string names, values;
  for (const Factor& factor : factors) {
    names += (names.empty() ? "" : " * ") + std::string(factor.name);
    values += (values.empty() ? "" : " * ") + std::to_string(factor.value);
  }
  throw OpError(std::string(what) + " are numbered in 32 bits, and " + names + " = " + values + " is too many");
}

int64_t Size(const Sizes& sizes, char dim) { return static_cast<int64_t>(sizes[dim]); }

constexpr char kPlaces[] = "places";
constexpr char kChoices[] = "choices of tokens";

}  // namespace

void RoutingSettings::Check() const {
  for (size_t i = 0; i < kCount; ++i) {
    const std::optional<int64_t>& value = values[i];
    if (value) CheckRange(kNames[i], *value, kMinimum[i], kMaximum[i]);
  }
  for (size_t i = 0; i < policies.size(); ++i) {
    const std::optional<int64_t>& value = policies[i];
    if (value) CheckRange(kPolicyNames[i], *value, kPolicyMinimum[i], kPolicyMaximum[i]);
  }
}

int64_t RoutingSettings::Known(size_t index) const {
  const std::optional<int64_t>& value = values[index];
  if (!value) throw OpError(std::string(kNames[index]) + " is neither an input nor an attribute");
  return *value;
}

RoutingShape RoutingSettings::Shape(Sizes& sizes) const {
  const int64_t groups = Size(sizes, 'G');
  const int64_t experts = Size(sizes, 'E');
  if (experts < 1) throw OpError("there are no experts");
  if (k() < 1 || k() > experts) {
    throw OpError("k must be between 1 and the number of experts, " + std::to_string(experts) + ", not " +
                  std::to_string(k()));
  }
  Check();
  CheckProduct(kPlaces, {{"E", experts}, {"G", groups}, {"capacity", capacity()}});
  CheckProduct(kChoices, {{"G", groups}, {"S", Size(sizes, 'S')}, {"k", k()}});
  sizes.Set('K', k());
  sizes.Set('M', groups * capacity());
  RoutingShape shape;
  shape.groups = sizes['G'];
  shape.tokens = sizes['S'];
  shape.experts = sizes['E'];
  shape.choices = sizes['K'];
  shape.capacity = static_cast<size_t>(capacity());
  shape.batch_priority = bpr() == 1;
  shape.pool = policies[0] == 1;
  shape.max_experts = static_cast<size_t>(std::min(policies[1].value_or(experts), experts));
  return shape;
}

RoutingSettings ReadRoutingSettings(const OpSpec& spec, const ReadAttribute& read) {
  RoutingSettings settings;
  for (size_t i = 0; i < spec.settings(); ++i) settings.values[i] = read(RoutingSettings::kNames[i]);
  settings.Check();
  return settings;
}

void CheckNumbering(const Sizes& sizes) {
  if (sizes.has('E') && sizes.has('M')) {
    CheckProduct(kPlaces, {{"E", Size(sizes, 'E')}, {"M", Size(sizes, 'M')}});
  }
  if (sizes.has('G') && sizes.has('S') && sizes.has('K')) {
    CheckProduct(kChoices, {{"G", Size(sizes, 'G')}, {"S", Size(sizes, 'S')}, {"K", Size(sizes, 'K')}});
  }
}

}  // namespace vmoe::ops
