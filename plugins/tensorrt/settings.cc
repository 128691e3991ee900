#include "tensorrt/settings.h"

#include <cstring>
#include <string>

#include "cuda/ops.h"
#include "tensorrt/op_error.h"

namespace vmoe::tensorrt {
namespace {

constexpr char kWanted[] = "; it takes capacity, k and bpr, one INT each";

int32_t ReadInt32(const nvinfer1::PluginField& field) {
  const std::string name = field.name;
  if (field.type != nvinfer1::PluginFieldType::kINT32 || field.length != 1) {
    throw OpError("field " + name + " must be one INT32 (type 5, length 1), not type " +
                  std::to_string(static_cast<int32_t>(field.type)) + ", length " + std::to_string(field.length));
  }
  if (!field.data) throw OpError("field " + name + " has no data");
  int32_t value = 0;
  std::memcpy(&value, field.data, sizeof(value));
  return value;
}

void CheckRange(const char* name, int32_t value, int32_t lowest, int32_t highest) {
  if (value >= lowest && value <= highest) return;
  const std::string range = highest == INT32_MAX ? "at least " + std::to_string(lowest)
                                                 : std::to_string(lowest) + " to " + std::to_string(highest);
  throw OpError(std::string(name) + " must be " + range + ", not " + std::to_string(value));
}

}  // namespace

RoutingShape Settings::Shape(const Sizes& sizes) const {
  RoutingShape shape;
  shape.groups = sizes['G'];
  shape.tokens = sizes['S'];
  shape.experts = sizes['E'];
  shape.choices = static_cast<size_t>(k());
  shape.capacity = static_cast<size_t>(capacity());
  shape.batch_priority = bpr();
  return shape;
}

Settings ReadSettings(const nvinfer1::PluginFieldCollection* fields, bool routes) {
  const int32_t count = fields ? fields->nbFields : 0;
  if (count < 0 || (count > 0 && !fields->fields)) throw OpError("the collection of fields is damaged");
  Settings settings;
  std::array<bool, Settings::kCount> seen{};
  for (int32_t i = 0; i < count; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    if (!field.name) throw OpError("field " + std::to_string(i) + " has no name");
    size_t index = 0;
    while (index < Settings::kCount && std::strcmp(field.name, Settings::kNames[index]) != 0) ++index;
    if (!routes || index == Settings::kCount) {
      throw OpError(std::string("there is no field ") + field.name + (routes ? kWanted : "; it takes none"));
    }
    if (seen[index]) throw OpError(std::string("field ") + field.name + " is given twice");
    seen[index] = true;
    settings.values[index] = ReadInt32(field);
  }
  if (!routes) return settings;
  for (size_t i = 0; i < Settings::kCount; ++i) {
    if (!seen[i]) throw OpError(std::string("field ") + Settings::kNames[i] + " is missing" + kWanted);
  }
  CheckRange("capacity", settings.capacity(), 1, INT32_MAX);
  CheckRange("k", settings.k(), 1, cuda::kMaxChoices);
  CheckRange("bpr", settings.values[2], 0, 1);
  return settings;
}

}  // namespace vmoe::tensorrt
