/* The settings of a call. Generated from vmoe_runtime/settings.py by
 *
 *   python tools/cpp_headers.py
 */
/* clang-format off */
#ifndef VMOE_SETTINGS_H_
#define VMOE_SETTINGS_H_

#include <stddef.h>
#include <stdint.h>

/* NOLINTBEGIN(modernize-*): this is C. */

enum {
  VMOE_SET_CAPACITY_RATIO = 1,
  VMOE_SET_K = 2,
  VMOE_SET_BPR = 4,
  VMOE_SET_POOL = 8,
  VMOE_SET_MAX_EXPERTS = 16,
  VMOE_SET_MERGE = 32
};

/* The setting of one call: a profile, and values that replace values of that profile. The comment of each field lists the
 * kinds of models that the field is for. Setting it for another kind is a VMOE_ROUTING_ERROR. Tokens can't be merged if
 * routing groups split images. */
typedef struct vmoe_setting {
  size_t struct_size;
  const char* profile; /* a stored or systematic name; NULL for the engine's profile */
  int32_t set; /* VMOE_SET_* flags of the fields below that replace the profile's values; the others are ignored */
  int32_t reserved; /* 0 */
  double capacity_ratio; /* capacity ratio; for top-k, ensemble, experts-choice */
  int64_t k; /* experts per token; for top-k, ensemble */
  int32_t bpr; /* 1: Batch Priority Routing, 0: vanilla order; for top-k, ensemble */
  int32_t pool; /* 1: one pool of slots per group, 0: separate slots for each expert; for top-k */
  int64_t max_experts; /* most experts per group, 1 or more; for top-k */
  int64_t merge; /* tokens merged per block, 0 to 65536; for dense, top-k, experts-choice, soft */
} vmoe_setting;

#define VMOE_SETTING_INIT {sizeof(vmoe_setting), NULL, 0, 0, 0, 0, 0, 0, 0, 0}

/* A complete setting of one model. Fields that the model's routing kind does not use are 0. */
typedef struct vmoe_profile {
  size_t struct_size;
  char name[64]; /* such as "c0.3-k1", "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; with expert choice "c1.0" */
  int32_t set; /* VMOE_SET_* bits of the settings that the model's routing kind has */
  int32_t reserved; /* 0 */
  double effective_ratio; /* the capacity ratio C after rounding to whole slots, as the mean over the MoE layers */
  double capacity_ratio; /* capacity ratio */
  int64_t k; /* experts per token */
  int32_t bpr; /* Batch Priority Routing */
  int32_t pool; /* one pool of slots per group */
  int64_t max_experts; /* most experts per group */
  int64_t merge; /* tokens merged per block */
} vmoe_profile;

#define VMOE_PROFILE_INIT {sizeof(vmoe_profile), {0}, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* NOLINTEND(modernize-*) */

#endif /* VMOE_SETTINGS_H_ */
