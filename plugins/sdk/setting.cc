#include "sdk/setting.h"

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

void check_flag(const vmoe_setting& setting, int bit, const char* name, int32_t value) {
  if ((setting.set & bit) != 0 && value != 0 && value != 1) {
    fail(VMOE_ROUTING_ERROR, name, " must be 0 or 1, not ", value);
  }
}

}  // namespace

void check_fields(const vmoe_setting& setting) {
  if ((setting.set & ~kAllSettings) != 0) {
    fail(VMOE_ARGUMENT_ERROR, "the setting's field 'set' is ", setting.set, ", which names fields that are not known");
  }
  check_flag(setting, VMOE_SET_BPR, "bpr", setting.bpr);
  check_flag(setting, VMOE_SET_POOL, "pool", setting.pool);
}

Profile replaced(const RoutingRules& rules, const Profile& base, const vmoe_setting& setting) {
  RoutingSetting asked = rules.setting_of(base);
  asked.given |= setting.set;
  if ((setting.set & VMOE_SET_CAPACITY_RATIO) != 0) asked.capacity_ratio = setting.capacity_ratio;
  if ((setting.set & VMOE_SET_K) != 0) asked.k = setting.k;
  if ((setting.set & VMOE_SET_BPR) != 0) asked.bpr = setting.bpr == 1;
  if ((setting.set & VMOE_SET_POOL) != 0) asked.pool = setting.pool == 1;
  if ((setting.set & VMOE_SET_MAX_EXPERTS) != 0) asked.max_experts = setting.max_experts;
  return rules.profile(asked);
}

}  // namespace vmoe::sdk
