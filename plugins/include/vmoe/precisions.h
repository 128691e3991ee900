/* The precisions of a bundle. */
#ifndef VMOE_PRECISIONS_H_
#define VMOE_PRECISIONS_H_

/* NOLINTBEGIN(modernize-*): this is C. */

/* The type in which large matrix products store their weights and compute; everything else is float32. INT4 stores
 * expert weights as int4 and the other weights as int8. BF16_EXPERTS stores only expert weights as bfloat16. */
typedef enum vmoe_precision {
  VMOE_FP32 = 1,
  VMOE_BF16 = 2,
  VMOE_INT8 = 3,
  VMOE_INT4 = 4,
  VMOE_BF16_EXPERTS = 5
} vmoe_precision;

/* NOLINTEND(modernize-*) */

#endif /* VMOE_PRECISIONS_H_ */
