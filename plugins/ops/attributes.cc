#include "ops/attributes.h"

#include "core/weight_type.h"

namespace vmoe::ops {

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
      throw OpError(std::string("attribute ") + specs_[i].name + " must be 0 where weights are " + name_of(weights) +
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

}  // namespace vmoe::ops
