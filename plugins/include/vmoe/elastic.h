/* C API of elastic capacity: which of several settings the next call runs with, so that answers keep to a latency
 * target. docs/elastic.md says how it decides. The Python package's vmoe_serve.elastic decides the same.
 *
 * Conventions are those of engine.h, but for threads: one vmoe_elastic is used by one thread at a time.
 */
#ifndef VMOE_ELASTIC_H_
#define VMOE_ELASTIC_H_

/* NOLINTBEGIN(modernize-*): this is C. */

#include "vmoe/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vmoe_elastic vmoe_elastic;

/* A setting whose calls take fixed + each * images seconds. This struct will not grow. */
typedef struct vmoe_elastic_level {
  double fixed; /* 0 or more */
  double each;  /* more than 0 */
} vmoe_elastic_level;

typedef struct vmoe_elastic_options {
  size_t struct_size;
  double target;       /* seconds from a request's arrival to its answer */
  int64_t most_images; /* of a call; a multiple of `multiple` */
  int64_t multiple;    /* calls take a multiple of so many images: vmoe_info.batch_multiple */
  double time;         /* now: seconds of a clock that never goes back, that of all later times */
} vmoe_elastic_options;

#define VMOE_ELASTIC_OPTIONS_INIT {sizeof(vmoe_elastic_options), 0.0, 1, 1, 0.0}

/* levels: 1 to 1024, the cheapest first: a full call of each takes longer than one of the level before.
 * elastic: receives what decides, to be freed with vmoe_elastic_free; NULL on failure. It starts at the highest level.
 */
VMOE_API vmoe_status* vmoe_elastic_create(const vmoe_elastic_options* options, const vmoe_elastic_level* levels,
                                          size_t num_levels, vmoe_elastic** elastic);

/* Frees it; NULL is fine. */
VMOE_API void vmoe_elastic_free(vmoe_elastic* elastic);

typedef struct vmoe_elastic_seen {
  size_t struct_size;
  double time;     /* now */
  int64_t waiting; /* images in the queue */
  double oldest;   /* seconds for which the first of them has waited */
  int64_t arrived; /* images that came since the last decision */
} vmoe_elastic_seen;

#define VMOE_ELASTIC_SEEN_INIT {sizeof(vmoe_elastic_seen), 0.0, 0, 0.0, 0}

typedef struct vmoe_elastic_decision {
  size_t struct_size;
  int64_t level;  /* index among the levels, of the next call */
  int64_t images; /* the most that this call takes */
  double load;    /* seconds of such calls that the images of one second need */
} vmoe_elastic_decision;

#define VMOE_ELASTIC_DECISION_INIT {sizeof(vmoe_elastic_decision), 0, 0, 0.0}

/* Decides, when a call is about to be made. */
VMOE_API vmoe_status* vmoe_elastic_decide(vmoe_elastic* elastic, const vmoe_elastic_seen* seen,
                                          vmoe_elastic_decision* decision);

/* Learns that a call of `images` images at a level took so many seconds; what is no positive number of them is ignored.
 */
VMOE_API vmoe_status* vmoe_elastic_served(vmoe_elastic* elastic, int64_t level, int64_t images, double seconds);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-*) */

#endif /* VMOE_ELASTIC_H_ */
