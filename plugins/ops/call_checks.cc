#include "ops/call_checks.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "core/weight_type.h"

namespace vmoe::ops {

namespace {

// Throws OpError if the product of the factors exceeds INT32_MAX, because slots and token choices are numbered with
// int32. `what` is the name of the things that are counted. Factors must not be negative.
void check_product(const char* what, std::initializer_list<std::pair<const char*, int64_t>> factors) {
  double count = 1;  // exact for products up to INT32_MAX
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

// Sets M to G * P, for an op with P slots per group. Throws OpError if M is already known and has another value.
void check_slots(Sizes& sizes) {
  const auto slots = static_cast<int64_t>(sizes['G'] * sizes['P']);
  if (sizes.has('M') && static_cast<int64_t>(sizes['M']) != slots) {
    throw OpError("M is " + std::to_string(sizes['M']) + ", but G * P is " + std::to_string(slots));
  }
  sizes.set('M', slots);
}

}  // namespace

void check_range(const std::string& name, int64_t value, int64_t minimum, int64_t maximum) {
  if (value >= minimum && value <= maximum) return;
  std::string range = "at least " + std::to_string(minimum);
  if (maximum != kNoMaximum) {
    range = std::to_string(minimum) + (maximum == minimum + 1 ? " or " : " to ") + std::to_string(maximum);
  }
  throw OpError(name + " must be " + range + ", not " + std::to_string(value));
}

Attributes::Attributes(const OpSpec& spec, const ReadAttribute& read) : specs_(spec.attributes) {
  for (const AttributeSpec& attribute : specs_) {
    const int64_t value = read(attribute.name).value_or(attribute.otherwise);
    check_range(std::string("attribute ") + attribute.name, value, attribute.minimum, attribute.maximum);
    values_.push_back(value);
  }
}

void Attributes::check(const Types& types) const {
  const ElementType weights = types[ValueType::kW];
  for (size_t i = 0; i < values_.size(); ++i) {
    if (specs_[i].only_quantized && values_[i] != 0 && !weight_type(weights).quantized()) {
      throw OpError(std::string("attribute ") + specs_[i].name + " must be 0 if weights are " + name_of(weights) +
                    ", not " + std::to_string(values_[i]));
    }
  }
}

void Attributes::check(const Sizes& sizes) const {
  for (size_t i = 0; i < values_.size(); ++i) {
    const char dim = specs_[i].divides;
    if (dim == 0 || values_[i] == 0 || !sizes.has(dim)) continue;
    if (sizes[dim] % static_cast<size_t>(values_[i]) != 0) {
      throw OpError(std::string("attribute ") + specs_[i].name + " is " + std::to_string(values_[i]) +
                    ", which doesn't divide " + dim + ", " + std::to_string(sizes[dim]));
    }
  }
}

int64_t Settings::known(size_t setting) const {
  const std::optional<int64_t>& value = values_[setting];
  if (!value) throw OpError(std::string(kSettings[setting].name) + " is neither an input nor an attribute");
  return *value;
}

void Settings::check() const {
  for (size_t i = 0; i < values_.size(); ++i) {
    if (const std::optional<int64_t>& value = values_[i]) {
      check_range(kSettings[i].name, *value, kSettings[i].minimum, kSettings[i].maximum);
    }
  }
}

std::vector<size_t> needed_settings(const OpSpec& spec) {
  std::vector<size_t> needed;
  for (const ValueSpec& input : spec.inputs) {
    if (input.presence == Presence::kSetting) needed.push_back(input.setting);
  }
  return needed;
}

Settings read_settings(const OpSpec& spec, const ReadAttribute& read) {
  Settings settings;
  for (const ValueSpec& input : spec.inputs) {
    if (!input.is_setting()) continue;
    settings[input.setting] = read(input.name);
    if (input.presence == Presence::kOptional && settings[input.setting]) {
      throw OpError(std::string(input.name) + " must be an input, not an attribute");
    }
  }
  settings.check();
  return settings;
}

void check_inputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given) {
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const ValueSpec& input = spec.inputs[i];
    if (input.presence == Presence::kRequired && !is_given(i)) {
      throw OpError(std::string("input ") + input.name + " is missing");
    }
    if (input.scale == kNoScale) continue;
    const ElementType type = types[input.type];
    const std::string scale = spec.inputs[input.scale].name;
    const bool needs_scale = is_given(i) && weight_type(type).quantized();
    if (is_given(input.scale) != needs_scale) {
      throw OpError(std::string(input.name) + " is " + (is_given(i) ? name_of(type) : "left out") + ", so input " +
                    scale + " must be " + (needs_scale ? "given" : "left out"));
    }
  }
}

void check_numbering(const Sizes& sizes) {
  if (sizes.has('E') && sizes.has('M')) {
    check_product(kSlots, {{"E", size_of(sizes, 'E')}, {"M", size_of(sizes, 'M')}});
  }
  if (sizes.has('G') && sizes.has('S') && sizes.has('K')) {
    check_product(kChoices, {{"G", size_of(sizes, 'G')}, {"S", size_of(sizes, 'S')}, {"K", size_of(sizes, 'K')}});
  }
}

void check_groups(const Sizes& sizes) {
  for (const auto& [groups, depth] : {std::pair{'H', 'D'}, {'J', 'F'}}) {
    if (!sizes.has(groups) || !sizes.has(depth)) continue;
    const size_t wanted = divide_up(sizes[depth], kScaleGroup);
    if (sizes[groups] == wanted) continue;
    throw OpError(std::string("weights of ") + depth + " = " + std::to_string(sizes[depth]) + " have " +
                  std::to_string(wanted) + " groups of scales, not " + std::to_string(sizes[groups]));
  }
}

RoutingShape check_call(const Node& node, Settings settings, Sizes& sizes) {
  node.attributes.check(sizes);
  check_groups(sizes);
  for (const ValueSpec& input : node.spec->inputs) {
    if (input.presence == Presence::kSetting) settings.known(input.setting);
  }
  if (!routes(*node.spec)) {
    settings.check();
    if (sizes.has('G') && sizes.has('P')) check_slots(sizes);
    check_numbering(sizes);
    return {};
  }
  const int64_t groups = size_of(sizes, 'G');
  const int64_t experts = size_of(sizes, 'E');
  if (experts < 1) throw OpError("there are no experts");
  if (experts_choose(*node.spec)) {
    // If experts choose their tokens, each token has one choice for each expert.
    settings[Setting::kK] = experts;
    settings[Setting::kBpr] = 0;
  }
  const int64_t k = settings.known(Setting::kK);
  if (k < 1 || k > experts) {
    throw OpError("k must be between 1 and the number of experts, " + std::to_string(experts) + ", not " +
                  std::to_string(k));
  }
  settings.check();
  const int64_t capacity = settings.known(Setting::kCapacity);
  check_product(kSlots, {{"E", experts}, {"G", groups}, {"capacity", capacity}});
  check_product(kChoices, {{"G", groups}, {"S", size_of(sizes, 'S')}, {"k", k}});
  sizes.set('K', k);
  sizes.set('M', groups * capacity);
  RoutingShape shape;
  shape.groups = sizes['G'];
  shape.tokens = sizes['S'];
  shape.experts = sizes['E'];
  shape.choices = sizes['K'];
  shape.capacity = static_cast<size_t>(capacity);
  shape.batch_priority = settings.known(Setting::kBpr) == 1;
  shape.pool = settings[Setting::kPool] == 1;
  shape.max_experts = static_cast<size_t>(std::min(settings[Setting::kMaxExperts].value_or(experts), experts));
  return shape;
}

}  // namespace vmoe::ops
