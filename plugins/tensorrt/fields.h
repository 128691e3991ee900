// What a node has besides its inputs, as plugin fields: capacity, k and bpr of an op that routes.
#pragma once

#include <NvInferRuntime.h>

#include "ops/op_spec.h"
#include "ops/routing_settings.h"

namespace vmoe::tensorrt {

// The settings in `fields`: each once, as one INT32, and nothing else; for ops that do not route, no field at all.
// Throws OpError for anything else, and for a value out of range.
ops::RoutingSettings read_fields(const nvinfer1::PluginFieldCollection* fields, const ops::OpSpec& spec);

}  // namespace vmoe::tensorrt
