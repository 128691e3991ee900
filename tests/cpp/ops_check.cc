// What plugins/ops says of nodes and calls, one a line: an op and what it is given, in words, to "good" or a sentence.
//
//   OP [NAME=TYPE:SIZE,SIZE ...] [NAME=NUMBER ...]
//
// Inputs have a type, such as float32, and a shape; attributes and routing settings are numbers.
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>
#include <string>

#include "ops/node.h"
#include "ops/op_error.h"
#include "ops/op_table.h"

namespace {

using vmoe::ElementType;

#define VMOE_SPEC(name, Name) &vmoe::ops::k##Name,
const vmoe::ops::OpSpec* const kOps[] = {VMOE_FOR_EACH_OP(VMOE_SPEC)};
#undef VMOE_SPEC

struct Given {
  std::string type;
  vmoe::ops::Shape shape;
};

std::optional<ElementType> type_of(const std::string& name) {
  for (int type = 0; type <= static_cast<int>(ElementType::kInt64); ++type) {
    if (name == name_of(static_cast<ElementType>(type))) return static_cast<ElementType>(type);
  }
  return std::nullopt;
}

// As an adapter does it: the node first, then a call of it.
void check(const vmoe::ops::OpSpec& spec, const std::map<std::string, Given>& inputs,
           const std::map<std::string, int64_t>& numbers) {
  const auto read = [&](const char* name) -> std::optional<int64_t> {
    const auto found = numbers.find(name);
    if (found == numbers.end()) return std::nullopt;
    return found->second;
  };
  vmoe::ops::Node node{&spec, vmoe::ops::Attributes(spec, read), vmoe::ops::read_routing_settings(spec, read),
                       vmoe::ops::Types(spec)};
  const auto is_given = [&](size_t input) { return inputs.count(spec.inputs[input].name) > 0; };
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (!is_given(i)) continue;
    const std::string& name = inputs.at(spec.inputs[i].name).type;
    const std::optional<ElementType> type = type_of(name);
    if (!type) throw node.types.refusal(spec.inputs[i], name);
    node.types.add(spec.inputs[i], *type);
  }
  vmoe::ops::check_inputs(spec, node.types, is_given);
  node.attributes.check(node.types);
  vmoe::ops::Sizes sizes;
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (is_given(i)) sizes.add(spec.inputs[i], inputs.at(spec.inputs[i].name).shape);
  }
  // What an adapter reads of inputs.
  for (size_t i = 0; spec.routes() && i < node.settings.policies.size(); ++i) {
    node.settings.policies[i] = read(vmoe::ops::RoutingSettings::kPolicyNames[i]);
  }
  const vmoe::RoutingShape routing = check_call(node, node.settings, sizes);
  if (spec.routes() && routing.places() != sizes['M']) throw vmoe::ops::OpError("the routing has other places");
}

std::string answer(const std::string& line) {
  std::istringstream words(line);
  std::string op, word;
  words >> op;
  std::map<std::string, Given> inputs;
  std::map<std::string, int64_t> numbers;
  while (words >> word) {
    const std::string name = word.substr(0, word.find('='));
    const std::string value = word.substr(name.size() + 1);
    const size_t colon = value.find(':');
    if (colon == std::string::npos) {
      numbers[name] = std::stoll(value);
      continue;
    }
    Given given{value.substr(0, colon), {}};
    std::istringstream sizes(value.substr(colon + 1));
    for (std::string size; std::getline(sizes, size, ',');) {
      if (given.shape.rank < 8) given.shape.sizes[static_cast<size_t>(given.shape.rank)] = std::stoll(size);
      ++given.shape.rank;
    }
    inputs[name] = given;
  }
  for (const vmoe::ops::OpSpec* spec : kOps) {
    if (op != spec->name) continue;
    try {
      check(*spec, inputs, numbers);
      return "good";
    } catch (const vmoe::ops::OpError& error) {
      return error.what();
    }
  }
  return "there is no op " + op;
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) std::cout << answer(line) << "\n";
  return EXIT_SUCCESS;
}
