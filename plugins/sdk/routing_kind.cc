#include "sdk/routing_kind.h"

#include <string>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

// "k", "k or bpr", "k, bpr or pool".
std::string listed(int set) {
  std::string names;
  for (const SettingField& field : kSettingFields) {
    if ((set & field.bit) == 0) continue;
    set &= ~field.bit;
    names += (names.empty() ? "" : set == 0 ? " or " : ", ") + std::string(field.name);
  }
  return names;
}

}  // namespace

int RoutingKind::settings() const {
  switch (code) {
    case VMOE_TOP_K: return ensemble_size > 1 ? kAllSettings & ~kPolicies : kAllSettings;
    case VMOE_EXPERTS_CHOICE: return VMOE_SET_CAPACITY_RATIO;
    default: return 0;
  }
}

void RoutingKind::check_settings(int set) const {
  const int missing = set & ~settings();
  if (missing == 0) return;
  switch (code) {
    case VMOE_DENSE: fail(VMOE_ROUTING_ERROR, "this is a dense model: it has no capacity, k, bpr, pool or max_experts");
    case VMOE_SOFT: fail(VMOE_ROUTING_ERROR, "Soft MoE has nothing to set: it takes no ", listed(missing));
    case VMOE_EXPERTS_CHOICE:
      fail(VMOE_ROUTING_ERROR, "with experts choice there is nothing to set but the capacity ratio: it takes no ",
           listed(missing));
    default: fail(VMOE_ROUTING_ERROR, "ensembles (E3) are routed officially: they take no ", listed(missing));
  }
}

}  // namespace vmoe::sdk
