#include "tensorrt/fields.h"

#include <cstring>
#include <string>

#include "cuda/limits.h"
#include "ops/attributes.h"
#include "ops/op_error.h"

namespace vmoe::tensorrt {
namespace {

using ops::OpError;
using ops::RoutingSettings;

constexpr char kWanted[] = "; it takes capacity, k and bpr, one INT each";

int32_t read_int32(const nvinfer1::PluginField& field) {
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

}  // namespace

RoutingSettings read_fields(const nvinfer1::PluginFieldCollection* fields, const ops::OpSpec& spec) {
  const int32_t count = fields ? fields->nbFields : 0;
  if (count < 0 || (count > 0 && !fields->fields)) throw OpError("the collection of fields is damaged");
  RoutingSettings settings;
  for (int32_t i = 0; i < count; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    if (!field.name) throw OpError("field " + std::to_string(i) + " has no name");
    size_t index = 0;
    while (index < RoutingSettings::kCount && std::strcmp(field.name, RoutingSettings::kNames[index]) != 0) ++index;
    if (!spec.routes() || index == RoutingSettings::kCount) {
      throw OpError(std::string("there is no field ") + field.name + (spec.routes() ? kWanted : "; it takes none"));
    }
    if (settings.values[index]) throw OpError(std::string("field ") + field.name + " is given twice");
    settings.values[index] = read_int32(field);
  }
  if (!spec.routes()) return settings;
  for (size_t i = 0; i < RoutingSettings::kCount; ++i) {
    if (!settings.values[i])
      throw OpError(std::string("field ") + RoutingSettings::kNames[i] + " is missing" + kWanted);
  }
  ops::check_range("k", settings.k(), 1, static_cast<int64_t>(cuda::kMaxChoices));
  settings.check();
  return settings;
}

}  // namespace vmoe::tensorrt
