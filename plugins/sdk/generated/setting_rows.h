// The settings of a call. Generated from vmoe_runtime/settings.py by
//
//   python tools/cpp_headers.py
// clang-format off
#pragma once

#include "sdk/setting_row.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {

inline constexpr SettingRow kSettingRows[] = {
  {"capacity", "capacity_ratio", "c", SettingType::kRatio, VMOE_SET_CAPACITY_RATIO, kOfTopK | kOfEnsemble | kOfExpertsChoice, true, 0, 0, 0, false},
  {"k", "k", "k", SettingType::kWhole, VMOE_SET_K, kOfTopK | kOfEnsemble, true, 0, 0, 0, false},
  {"bpr", "bpr", "vanilla", SettingType::kFlag, VMOE_SET_BPR, kOfTopK | kOfEnsemble, false, 1, 0, 1, false},
  {"pool", "pool", "pool", SettingType::kFlag, VMOE_SET_POOL, kOfTopK, false, 0, 0, 1, false},
  {"max_experts", "max_experts", "m", SettingType::kWhole, VMOE_SET_MAX_EXPERTS, kOfTopK, false, 65536, 1, 9223372036854775807, false},
  {"merge", "merge", "r", SettingType::kWhole, VMOE_SET_MERGE, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, false, 0, 0, 65536, true},
};

// Calls visit(row, &vmoe_setting::FIELD, &vmoe_profile::FIELD) for each setting, in the order of a graph's inputs.
template <typename Visit>
void for_each_setting(Visit&& visit) {
  visit(kSettingRows[0], &vmoe_setting::capacity_ratio, &vmoe_profile::capacity_ratio);
  visit(kSettingRows[1], &vmoe_setting::k, &vmoe_profile::k);
  visit(kSettingRows[2], &vmoe_setting::bpr, &vmoe_profile::bpr);
  visit(kSettingRows[3], &vmoe_setting::pool, &vmoe_profile::pool);
  visit(kSettingRows[4], &vmoe_setting::max_experts, &vmoe_profile::max_experts);
  visit(kSettingRows[5], &vmoe_setting::merge, &vmoe_profile::merge);
}

}  // namespace vmoe::sdk
