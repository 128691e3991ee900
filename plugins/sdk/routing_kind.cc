#include "sdk/routing_kind.h"

#include <string>

#include "sdk/error.h"
#include "sdk/generated/setting_rows.h"

namespace vmoe::sdk {

namespace {

// "k", "k or bpr", "k, bpr or pool".
std::string listed(int set) {
  std::string names;
  for (const SettingRow& row : kSettingRows) {
    if ((set & row.bit) == 0) continue;
    set &= ~row.bit;
    names += (names.empty() ? "" : set == 0 ? " or " : ", ") + std::string(row.name);
  }
  return names;
}

}  // namespace

unsigned RoutingKind::bit() const {
  switch (code) {
    case VMOE_TOP_K: return ensemble_size > 1 ? kOfEnsemble : kOfTopK;
    case VMOE_EXPERTS_CHOICE: return kOfExpertsChoice;
    case VMOE_SOFT: return kOfSoft;
    default: return kOfDense;
  }
}

int RoutingKind::settings() const {
  int own = 0;
  for (const SettingRow& row : kSettingRows) {
    const bool has_it = (row.kinds & bit()) != 0 && (image_tokens > 0 || !row.merging);
    own |= has_it ? row.bit : 0;
  }
  return own;
}

void RoutingKind::check_settings(int set) const {
  const int missing = set & ~settings();
  if (missing == 0) return;
  if (missing == VMOE_SET_MERGE) {
    fail(VMOE_ROUTING_ERROR, "tokens can't be merged in ",
         ensemble_size > 1 ? "an ensemble (E3)" : "groups that cut an image, nor where a bundle returns tokens",
         ": it takes no merge");
  }
  const char* but = image_tokens > 0 ? " but merge" : "";
  switch (code) {
    case VMOE_DENSE: fail(VMOE_ROUTING_ERROR, "this is a dense model: it has no ", listed(missing));
    case VMOE_SOFT: fail(VMOE_ROUTING_ERROR, "Soft MoE has nothing to set", but, ": it takes no ", listed(missing));
    case VMOE_EXPERTS_CHOICE:
      fail(VMOE_ROUTING_ERROR, "with experts choice there is nothing to set but the capacity ratio",
           image_tokens > 0 ? " and merge" : "", ": it takes no ", listed(missing));
    default: fail(VMOE_ROUTING_ERROR, "ensembles (E3) are routed officially: they take no ", listed(missing));
  }
}

}  // namespace vmoe::sdk
