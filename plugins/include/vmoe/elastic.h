/* C API of elastic capacity. It chooses the setting of the next call so that answers meet a latency target.
 * docs/elastic.md explains the rules. The Python module vmoe_serve.elastic makes the same decisions.
 *
 * The conventions are those of engine.h, except for threads: only one thread may use a vmoe_elastic at a time.
 */
#ifndef VMOE_ELASTIC_H_
#define VMOE_ELASTIC_H_

/* NOLINTBEGIN(modernize-*): this is C. */

#include "vmoe/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vmoe_elastic vmoe_elastic;

/* A setting whose calls take fixed + each * images seconds. This struct will never grow. */
typedef struct vmoe_elastic_level {
  double fixed; /* 0 or more */
  double each;  /* more than 0 */
} vmoe_elastic_level;

typedef struct vmoe_elastic_options {
  size_t struct_size;
  double target;       /* seconds from a request's arrival to its answer */
  int64_t most_images; /* maximum number of images per call, a multiple of `multiple` */
  int64_t multiple;    /* the number of images of a call is a multiple of this: vmoe_info.batch_multiple */
  double time;         /* the current time, in seconds of a monotonic clock; later times use the same clock */
} vmoe_elastic_options;

#define VMOE_ELASTIC_OPTIONS_INIT {sizeof(vmoe_elastic_options), 0.0, 1, 1, 0.0}

/* Creates a controller, which starts at the highest level.
 *
 * levels: 1 to 1024 levels, the cheapest first. A call of most_images must take longer at each level than at the one
 *   before.
 * elastic: receives the controller; free it with vmoe_elastic_free. NULL on failure.
 */
VMOE_API vmoe_status* vmoe_elastic_create(const vmoe_elastic_options* options, const vmoe_elastic_level* levels,
                                          size_t num_levels, vmoe_elastic** elastic);

/* Frees a controller; NULL is fine. */
VMOE_API void vmoe_elastic_free(vmoe_elastic* elastic);

/* The state of the queue. */
typedef struct vmoe_elastic_seen {
  size_t struct_size;
  double time;     /* the current time, in seconds of the clock of vmoe_elastic_options.time */
  int64_t waiting; /* images in the queue */
  double oldest;   /* seconds that the oldest of them has waited */
  int64_t arrived; /* images that arrived since the last decision */
} vmoe_elastic_seen;

#define VMOE_ELASTIC_SEEN_INIT {sizeof(vmoe_elastic_seen), 0.0, 0, 0.0, 0}

/* The setting and size of the next call. */
typedef struct vmoe_elastic_decision {
  size_t struct_size;
  int64_t level;  /* index of the level */
  int64_t images; /* maximum number of images of the call */
  double load;    /* utilization: seconds of such calls needed for the images that arrive in one second */
} vmoe_elastic_decision;

#define VMOE_ELASTIC_DECISION_INIT {sizeof(vmoe_elastic_decision), 0, 0, 0.0}

/* Decides on the next call. Call this just before it. */
VMOE_API vmoe_status* vmoe_elastic_decide(vmoe_elastic* elastic, const vmoe_elastic_seen* seen,
                                          vmoe_elastic_decision* decision);

/* Records that a call with `images` images took `seconds` at a level. Ignores `seconds` if it is not a positive finite
 * number. */
VMOE_API vmoe_status* vmoe_elastic_served(vmoe_elastic* elastic, int64_t level, int64_t images, double seconds);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-*) */

#endif /* VMOE_ELASTIC_H_ */
