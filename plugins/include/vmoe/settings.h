/* The settings of a call, as vmoe_runtime/settings.py declares them. Written by
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

/* The routing setting of one call: a profile, and what to replace in it. A model has those settings that name its kind;
 * others are a VMOE_ROUTING_ERROR. No model merges tokens if groups cut an image. */
typedef struct vmoe_setting {
  size_t struct_size;
  const char* profile; /* a stored or systematic name; NULL is the engine's */
  int32_t set; /* VMOE_SET_* of the fields below that replace the profile's; others are not read */
  int32_t reserved; /* 0 */
  double capacity_ratio; /* capacity ratio; of top-k, ensemble, experts-choice */
  int64_t k; /* experts per token; of top-k, ensemble */
  int32_t bpr; /* 1: Batch Priority Routing, 0: vanilla order; of top-k, ensemble */
  int32_t pool; /* 1: one pool of slots per group, 0: separate slots for each expert; of top-k */
  int64_t max_experts; /* most experts per group, 1 or more; of top-k */
  int64_t merge; /* tokens merged per block, 0 to 65536; of dense, top-k, experts-choice, soft */
} vmoe_setting;

#define VMOE_SETTING_INIT {sizeof(vmoe_setting), NULL, 0, 0, 0, 0, 0, 0, 0, 0}

/* A complete setting of one model. What its kind does not have is 0. */
typedef struct vmoe_profile {
  size_t struct_size;
  char name[64]; /* such as "c0.3-k1", "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; with experts choice "c1.0" */
  int32_t set; /* VMOE_SET_* of the settings that its kind has */
  int32_t reserved; /* 0 */
  double effective_ratio; /* C after rounding to whole slots, the mean over the MoE layers */
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
