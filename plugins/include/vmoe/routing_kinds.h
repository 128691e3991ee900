/* The routing kinds of a bundle. */
#ifndef VMOE_ROUTING_KINDS_H_
#define VMOE_ROUTING_KINDS_H_

/* NOLINTBEGIN(modernize-*): this is C. */

/* How a model assigns tokens to experts:
 * - DENSE: the model has no experts.
 * - TOP_K: each token chooses its k best experts (V-MoE, and E3 if ensemble_size is more than 1).
 * - EXPERTS_CHOICE: each expert chooses its c best tokens.
 * - SOFT: each slot of an expert receives a weighted mean of all tokens of the group (Soft MoE).
 */
typedef enum vmoe_routing_kind {
  VMOE_DENSE = 0,
  VMOE_TOP_K = 1,
  VMOE_EXPERTS_CHOICE = 2,
  VMOE_SOFT = 3
} vmoe_routing_kind;

/* NOLINTEND(modernize-*) */

#endif /* VMOE_ROUTING_KINDS_H_ */
