// What a call asks for, as C callers give it.
#ifndef VMOE_SDK_SETTING_H_
#define VMOE_SDK_SETTING_H_

#include "sdk/profile.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// Refuses fields that are not known, which is a VMOE_ARGUMENT_ERROR, and flags that are none, a VMOE_ROUTING_ERROR.
void check_fields(const vmoe_setting& setting);

// A profile with the fields that a setting replaces in it. Throws VMOE_ROUTING_ERROR: the model has no such field, or
// can't be run with the result.
Profile replaced(const RoutingRules& rules, const Profile& base, const vmoe_setting& setting);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_SETTING_H_
