#include "ops/types.h"

#include <iterator>
#include <vector>

#include "ops/op_table.h"

namespace vmoe::ops {

uint64_t Types::choices_left(const ValueSpec& value, ElementType type) const {
  uint64_t left = 0;
  for (size_t i = 0; i < std::size(kTypeChoices); ++i) {
    if (kTypeChoices[i][value.type] == type) left |= left_ & uint64_t{1} << i;
  }
  return left;
}

void Types::add(const ValueSpec& value, ElementType type) {
  const uint64_t left = choices_left(value, type);
  if (left == 0) throw refusal(value, name_of(type));
  left_ = left;
  const char*& first = first_[static_cast<size_t>(value.type)];
  if (first == nullptr) first = value.name;
}

OpError Types::refusal(const ValueSpec& value, const std::string& given) const {
  std::vector<ElementType> wanted;
  for (const TypeChoice& choice : kTypeChoices) {
    const ElementType type = choice[value.type];
    bool is_new = takes(value, type);
    for (const ElementType known : wanted) is_new = is_new && known != type;
    if (is_new) wanted.push_back(type);
  }
  std::string text = std::string(value.name) + " is " + given + ", not ";
  for (size_t i = 0; i < wanted.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < wanted.size() ? ", " : " or ") + std::string(name_of(wanted[i]));
  }
  if (value.type != ValueType::kFloat32 && value.type != ValueType::kInt32 && value.type != ValueType::kInt64) {
    if (const char* first = first_[static_cast<size_t>(value.type)]) return OpError{text + ", the type of " + first};
    for (const ValueType other : {ValueType::kW, ValueType::kQ, ValueType::kT}) {
      if (const char* first = first_[static_cast<size_t>(other)])
        text += std::string(" with ") + first + " in " + name_of((*this)[other]);
    }
  }
  return OpError{text};
}

ElementType Types::operator[](ValueType type) const {
  for (size_t i = 0; i < std::size(kTypeChoices); ++i) {
    if ((left_ >> i & 1) != 0) return kTypeChoices[i][type];
  }
  return ElementType::kFloat32;
}

}  // namespace vmoe::ops
