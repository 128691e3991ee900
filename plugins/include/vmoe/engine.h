/* C API of the vmoe engine: loads a bundle (NAME.vmoe) and runs it on the CPU at the capacity that each call sets.
 *
 * Errors are values: a function that can fail returns a vmoe_status*, NULL for success. A status has one message for
 * the person who made the call; the caller frees it. No C++ exception leaves the library, and nothing is printed; use
 * vmoe_set_log to receive messages for a log.
 *
 * Structs start with `struct_size`, which the caller sets to sizeof the struct (the VMOE_*_INIT macros do). Later
 * versions add fields at the end only; a field that this library doesn't know must be zero. They may also add values to
 * enums: have a default for codes, precisions and kinds that you don't know.
 *
 * Strings are UTF-8 and end with a zero byte. A `const char*` from an engine lives as long as the engine.
 *
 * Threads: every function may be called from any thread, and one engine from many at once. Only while a `*_free`
 * function runs, nothing else may use the object.
 *
 * Letters in shapes: N images, H height, W width, C channels, G routing groups, S tokens per group, K experts per
 * token, E experts, P slots per expert (Soft MoE), c slots per expert and group.
 */
#ifndef VMOE_ENGINE_H_
#define VMOE_ENGINE_H_

/* NOLINTBEGIN(modernize-*): this is C. */

#include <stddef.h>
#include <stdint.h>

#include "vmoe/settings.h"

#if defined(__GNUC__)
#define VMOE_API __attribute__((visibility("default")))
#else
#define VMOE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---- */

typedef enum vmoe_code {
  VMOE_OK = 0,
  VMOE_ARGUMENT_ERROR = 1, /* a null pointer, a buffer that is too small, an index out of range */
  VMOE_BUNDLE_ERROR = 2,   /* a bundle that is missing, damaged, changed after export, or of another format version */
  VMOE_ROUTING_ERROR = 3,  /* a profile or a setting that the model can't be run with */
  VMOE_IMAGE_ERROR = 4,    /* images that the model can't be run with: see vmoe_engine_check_images */
  VMOE_RUNTIME_ERROR = 5,  /* ONNX Runtime is missing or too old, or it failed; a number of threads out of range, an
                              engine of the process before a fork, answers to finite images that are not finite */
  VMOE_MEMORY_ERROR = 6,   /* out of memory */
  VMOE_CANCELLED = 7,      /* a call that was cancelled, or a request of vmoe::Batcher that was */
  VMOE_BUSY = 8,           /* vmoe::Batcher: the queue is full */
  VMOE_CLOSED = 9          /* vmoe::Batcher: it was closed */
} vmoe_code;

typedef struct vmoe_status vmoe_status;

/* The code of a status; VMOE_OK for NULL. */
VMOE_API vmoe_code vmoe_status_code(const vmoe_status* status);

/* The message, owned by the status; empty for NULL. */
VMOE_API const char* vmoe_status_message(const vmoe_status* status);

/* Frees a status; NULL is fine. */
VMOE_API void vmoe_status_free(vmoe_status* status);

/* Version of this library, such as "0.1.0"; static. */
VMOE_API const char* vmoe_version(void);

/* ---- Log ---- */

typedef enum vmoe_log_level {
  VMOE_LOG_DEBUG = 0,   /* what ONNX Runtime calls INFO: some hundred messages per load */
  VMOE_LOG_INFO = 1,    /* a bundle was loaded: path, time, profile, runtime, and whether it shares a session */
  VMOE_LOG_WARNING = 2, /* an op library that is missing or can't be loaded (once per process), a bundle that was
                           replaced while it was loaded, NaN in images (once per process), an ONNX Runtime that prints,
                           and ONNX Runtime's warnings */
  VMOE_LOG_ERROR = 3    /* ONNX Runtime's errors, which are also in the status of the call */
} vmoe_log_level;

/* Receives one message, UTF-8 in one line, that lives as long as the call. Any thread may call it, several at once,
 * including those of ONNX Runtime. It must not throw. It may call every function of this library except
 * vmoe_engine_load, which is a VMOE_ARGUMENT_ERROR there, and those that free an object in use. Messages that its own
 * thread causes meanwhile are dropped.
 */
typedef void (*vmoe_log_callback)(void* user, vmoe_log_level level, const char* message);

/* Sets the callback for the messages of this process, best before the first load. Nothing is logged until then.
 *
 * When it returns, the previous callback isn't running any more and has been released. There are two exceptions: if
 * called inside a callback, it doesn't wait, and the old one is released when its last call ends; and a process that
 * was forked after the callback was set doesn't wait for calls, either. Hold no lock that the callback takes: this
 * would be a deadlock.
 *
 * ONNX Runtime's messages begin with "ONNX Runtime: ". Those of loads and runs of this library's sessions always
 * arrive, at the level that is set at the time. Others depend on the environment of ONNX Runtime (OrtEnv), of which a
 * process has one. If the first load creates it while a callback is set, messages of no session, such as of threads
 * that can't be pinned, and those of all other users of the environment arrive as well, at the level of that time. If
 * it existed before, it stays as it is.
 *
 * least_level: the lowest vmoe_log_level to receive.
 * callback: NULL for none; then `user` and `release` are not used.
 * user: passed on to the callback.
 * release: called once with `user` when the callback will not be called again; may be NULL. Not called if
 *   vmoe_set_log fails, which leaves everything as it was.
 */
VMOE_API vmoe_status* vmoe_set_log(int32_t least_level, vmoe_log_callback callback, void* user,
                                   void (*release)(void* user));

/* ---- Loading ---- */

typedef struct vmoe_engine vmoe_engine;

typedef struct vmoe_load_options {
  size_t struct_size;
  /* Threads per call, up to 64 or four for each CPU; 0 leaves the choice to ONNX Runtime, but takes no more than the
   * CPUs that the calling thread may run on, and than a container's limit on CPU time grants. */
  int32_t threads;
  /* 1 compares the SHA-256 of every file; 0 skips this, and only this. */
  int32_t verify;
  /* Name of the profile for calls that pass no setting: a stored one, or any systematic name such as "c0.3-k1". NULL is
   * the first stored one. */
  const char* profile;
  /* Path of the ONNX Runtime library; one that is too old is refused. NULL takes the first of: one that is loaded
   * already, the path in the environment variable VMOE_ONNXRUNTIME, that of the Python environment that this library
   * was installed into, libonnxruntime.so, libonnxruntime.so.1; on macOS, libonnxruntime.dylib and
   * libonnxruntime.1.dylib. */
  const char* onnxruntime;
  /* 1 lets ONNX Runtime's threads spin for tens of milliseconds after a call, 0 lets them sleep at once. */
  int32_t spin;
  int32_t reserved; /* 0 */
} vmoe_load_options;

#define VMOE_LOAD_OPTIONS_INIT {sizeof(vmoe_load_options), 0, 1, NULL, NULL, 0, 0}

/* Loads a bundle. The op library libvmoe_onnxruntime.so is used if it is next to this library and can be loaded;
 * without it, the bundle runs on standard ops, and vmoe_info.runtime says why. Engines of one process on the same
 * bundle with the same threads and spin share one session and its memory. If the bundle is replaced meanwhile, it is
 * loaded again, in at most three attempts.
 *
 * After a fork, the child's calls on its parent's engines fail: load in the process that runs. Unless the environment
 * variable ORT_DISABLE_TELEMETRY is set, the first load that opens ONNX Runtime sets it to 1, with setenv, which is not
 * safe while other threads read the environment: if there are any, set it yourself at the start.
 *
 * path: the NAME.vmoe folder.
 * options: NULL for the defaults.
 * engine: receives the engine, to be freed with vmoe_engine_free; NULL on failure.
 */
VMOE_API vmoe_status* vmoe_engine_load(const char* path, const vmoe_load_options* options, vmoe_engine** engine);

/* Frees an engine; NULL is fine. No call on it may be running. */
VMOE_API void vmoe_engine_free(vmoe_engine* engine);

/* ---- Metadata ---- */

typedef enum vmoe_dtype { VMOE_FLOAT32 = 1, VMOE_UINT8 = 2 } vmoe_dtype;

/* MEMBERS are the logits of each member of an ensemble of experts (E3), [M, classes] per image. An ensemble's LOGITS
   are the logarithm of its members' mean probability. TOKENS are all tokens, [T, D] per image. */
typedef enum vmoe_output { VMOE_LOGITS = 1, VMOE_FEATURES = 2, VMOE_MEMBERS = 3, VMOE_TOKENS = 4 } vmoe_output;

/* How logits become probabilities: over all classes, or of each class alone, as in SigLIP. */
typedef enum vmoe_probabilities { VMOE_SOFTMAX = 1, VMOE_SIGMOID = 2 } vmoe_probabilities;

/* The type in which the weights of large products are stored, and the products computed; all else is float32. INT4 has
 * expert weights in int4 and the others in int8; BF16_EXPERTS has only expert weights in bfloat16. */
typedef enum vmoe_precision {
  VMOE_FP32 = 1,
  VMOE_BF16 = 2,
  VMOE_INT8 = 3,
  VMOE_INT4 = 4,
  VMOE_BF16_EXPERTS = 5
} vmoe_precision;

/* How tokens are assigned to experts. TOP_K: each token chooses its k best experts (V-MoE, and E3 if ensemble_size is
   more than 1). EXPERTS_CHOICE: each expert chooses its c best tokens. SOFT: each slot of an expert gets a weighted
   mean of all tokens of the group (Soft MoE). */
typedef enum vmoe_routing_kind {
  VMOE_DENSE = 0,
  VMOE_TOP_K = 1,
  VMOE_EXPERTS_CHOICE = 2,
  VMOE_SOFT = 3
} vmoe_routing_kind;

typedef struct vmoe_info {
  size_t struct_size;
  int64_t height, width, channels;   /* of an image */
  int32_t input_dtype;               /* vmoe_dtype of the graph's input; both accept uint8 images */
  int32_t output;                    /* vmoe_output */
  int64_t output_size;               /* floats per image that a run returns */
  int64_t batch_multiple;            /* batches must be a multiple of this many images */
  int64_t num_profiles;              /* stored profiles; 0 for a dense ViT and Soft MoE */
  int64_t num_class_names;           /* classes, or 0 if the bundle has no names */
  int64_t num_moe_layers;            /* 0 for a dense ViT */
  int64_t num_experts;               /* E, the largest one if layers differ; 0 for a dense ViT */
  int64_t group_tokens;              /* S; 0 for a dense ViT */
  const char* group;                 /* "image", "batch", a number of images or "tokens:S"; NULL for a dense ViT */
  const char* runtime;               /* such as "ONNX Runtime 1.32.0 CPU, vmoe op library" */
  int32_t uses_op_library;           /* 1 or 0 */
  int32_t threads;                   /* as requested; 0 for the default */
  int32_t precision;                 /* vmoe_precision */
  int32_t probabilities;             /* vmoe_probabilities of logits */
  const char* preprocessing;         /* official steps, such as "resize_small(256)|central_crop(224)" */
  int64_t ensemble_size;             /* M, the members of an ensemble of experts (E3); 1 for every other model */
  int32_t routing_kind;              /* vmoe_routing_kind */
  int32_t front_tokens;              /* tokens before the patches of an image: class token, registers */
  int64_t patch_rows, patch_columns; /* patches of an image; 0 if the bundle doesn't say */
  int64_t num_outputs;               /* `output` and those of --layers: see vmoe_engine_output */
} vmoe_info;

#define VMOE_INFO_INIT \
  {sizeof(vmoe_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0}

/* Fills `info`. */
VMOE_API vmoe_status* vmoe_engine_info(const vmoe_engine* engine, vmoe_info* info);

/* An output of a bundle, float32[N, rows, columns], or [N, columns] if rows are 0. */
typedef struct vmoe_output_shape {
  size_t struct_size;
  const char* name; /* "logits", "features", "members", "tokens"; or "layer3", the residual stream after block 3 */
  int64_t rows;     /* tokens, or members of an ensemble; 0 for logits and features */
  int64_t columns;
} vmoe_output_shape;

#define VMOE_OUTPUT_SHAPE_INIT {sizeof(vmoe_output_shape), NULL, 0, 0}

/* An output, 0 <= index < num_outputs; the first is vmoe_info.output. */
VMOE_API vmoe_status* vmoe_engine_output(const vmoe_engine* engine, int64_t index, vmoe_output_shape* output);

/* Name of a class, 0 <= index < num_class_names. */
VMOE_API vmoe_status* vmoe_engine_class_name(const vmoe_engine* engine, int64_t index, const char** name);

/* Name of a MoE block such as "encoderblock_1", 0 <= index < num_moe_layers. */
VMOE_API vmoe_status* vmoe_engine_moe_layer(const vmoe_engine* engine, int64_t index, const char** name);

/* ---- Routing settings ---- */

/* A stored profile, 0 <= index < num_profiles.
 *
 * slots: receives c of each MoE layer, i64[num_moe_layers]; or NULL.
 * slots_size: number of elements that `slots` has room for, at least num_moe_layers.
 */
VMOE_API vmoe_status* vmoe_engine_profile(const vmoe_engine* engine, int64_t index, vmoe_profile* profile,
                                          int64_t* slots, size_t slots_size);

/* The profile that a call with this setting (NULL: the engine's) runs with; `slots` as in vmoe_engine_profile.
 * VMOE_ROUTING_ERROR if the model can't be run with it, and for a dense ViT and Soft MoE, which have no profile. */
VMOE_API vmoe_status* vmoe_engine_setting(const vmoe_engine* engine, const vmoe_setting* setting, vmoe_profile* profile,
                                          int64_t* slots, size_t slots_size);

/* ---- Running ---- */

/* dtype[N,H,W,C], contiguous, N >= 1: float32 in [-1, 1], or uint8 in 0..255. uint8 images for a float32 bundle are
 * scaled to pixel / 255 * 2 - 1; a uint8 bundle does not accept float32 images. A NaN makes NaN of the answers of its
 * own image (with a bundle that routes images in groups, it can change the others). The data is only read, and only
 * during the call. */
typedef struct vmoe_images {
  size_t struct_size;
  const void* data;
  size_t data_bytes; /* N * H * W * C * sizeof(dtype) */
  int32_t dtype;     /* vmoe_dtype */
  int32_t reserved;  /* 0 */
  int64_t count, height, width, channels;
} vmoe_images;

#define VMOE_IMAGES_INIT {sizeof(vmoe_images), NULL, 0, 0, 0, 0, 0, 0, 0}

/* uint8[height,width,channels] in 0..255, contiguous: one decoded picture of any size, with the channels of the
 * model (RGB if it takes three), and optionally an alpha channel. The data is only read, and only during
 * the call. */
typedef struct vmoe_picture {
  size_t struct_size;
  const uint8_t* data;
  size_t data_bytes; /* height * width * channels */
  int64_t height, width, channels;
  int32_t orientation; /* EXIF's, 1 to 8; 0 if the file has none. Models whose preprocessing has `exif` apply it */
  int32_t reserved;    /* 0 */
} vmoe_picture;

#define VMOE_PICTURE_INIT {sizeof(vmoe_picture), NULL, 0, 0, 0, 0, 0, 0}

/* Makes one image from a picture by the steps in vmoe_info.preprocessing, with the same bits as the Python engine. It
 * needs little memory besides the image.
 *
 * image: receives dtype[H,W,C] of the engine's input, float32 in [-1, 1] or uint8; caller's memory, aligned to the
 * dtype. image_bytes: room in bytes, at least H * W * C * sizeof(dtype).
 */
VMOE_API vmoe_status* vmoe_engine_prepare_image(const vmoe_engine* engine, const vmoe_picture* picture, void* image,
                                                size_t image_bytes);

/* Checks a batch as every call that takes one does: VMOE_IMAGE_ERROR for another shape, dtype, number of images or of
 * bytes than the model takes, and for float32 values beyond [-2, 2], as pixels 0..255 have that were not scaled. */
VMOE_API vmoe_status* vmoe_engine_check_images(const vmoe_engine* engine, const vmoe_images* images);

/* Logits, or features or tokens, of a batch: the first output.
 *
 * setting: NULL for the engine's profile; must be NULL or empty for a dense ViT and Soft MoE.
 * output: receives float32[N, output_size]; caller's memory.
 * output_size: number of floats that `output` has room for, at least N * output_size.
 */
VMOE_API vmoe_status* vmoe_engine_run(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting,
                                      float* output, size_t output_size);

/* Runs a batch of `count` images of zeros, which allocates memory and reads the weights into the page cache, so that
 * the first call of as many images at this setting is fast. Other settings need memory of another size.
 *
 * count: a multiple of batch_multiple, 1 or more.
 * setting: as for vmoe_engine_run, and so are the errors.
 */
VMOE_API vmoe_status* vmoe_engine_warm_up(const vmoe_engine* engine, int64_t count, const vmoe_setting* setting);

/* Ends running calls from another thread. One cancellation serves any number of calls, at once or one after another. */
typedef struct vmoe_cancellation vmoe_cancellation;

/* cancellation: receives it, to be freed with vmoe_cancellation_free; NULL on failure. */
VMOE_API vmoe_status* vmoe_cancellation_create(vmoe_cancellation** cancellation);

/* Cancels for good: calls with it end between two ops of the graph, and later ones before they begin. A call that has
 * no op left returns its results. NULL is fine, and so is cancelling again. */
VMOE_API void vmoe_cancellation_cancel(vmoe_cancellation* cancellation);

/* Frees a cancellation; NULL is fine. No call with it may be running. */
VMOE_API void vmoe_cancellation_free(vmoe_cancellation* cancellation);

/* vmoe_engine_run that can be cancelled: VMOE_CANCELLED if it was. `output` is written to on success only.
 *
 * cancellation: NULL for a call that cannot be cancelled.
 */
VMOE_API vmoe_status* vmoe_engine_run_cancellable(const vmoe_engine* engine, const vmoe_images* images,
                                                  const vmoe_setting* setting, vmoe_cancellation* cancellation,
                                                  float* output, size_t output_size);

/* Several outputs of one run of the model.
 *
 * names: of outputs, such as "tokens" and "layer3", each once; `count` of them, 1 or more.
 * outputs: for each a caller's memory, which receives float32[N, rows, columns].
 * output_sizes: number of floats that each has room for.
 * Other arguments as for vmoe_engine_run_cancellable.
 */
VMOE_API vmoe_status* vmoe_engine_run_outputs(const vmoe_engine* engine, const vmoe_images* images,
                                              const vmoe_setting* setting, vmoe_cancellation* cancellation,
                                              const char* const* names, float* const* outputs,
                                              const size_t* output_sizes, size_t count);

typedef struct vmoe_routing vmoe_routing;

/* Where one MoE layer sent its tokens; pointers live as long as the vmoe_routing, and are NULL if the kind has no
 * such value. `choices` are K for top-k, E for experts choice (each pair of a token and an expert is a choice),
 * and 0 for Soft MoE. */
typedef struct vmoe_layer_routing {
  size_t struct_size;
  const char* layer;               /* such as "encoderblock_1" */
  int64_t groups, tokens, choices; /* G, S, K */
  const float* weight;   /* f32[G,S,K], top-k and experts choice: raw gate of each choice, dropped ones included */
  int32_t kind;          /* vmoe_routing_kind */
  int32_t reserved;      /* 0 */
  const int32_t* expert; /* i32[G,S,K], top-k: the expert of each choice, dropped ones included */
  const uint8_t* kept;   /* u8[G,S,K], top-k and experts choice: 1 if the choice was computed, 0 if dropped */
  int64_t experts;       /* E */
  int64_t slots;         /* P, Soft MoE; 0 otherwise */
  const float* dispatch; /* f32[G,S,E,P], Soft MoE: share of each token in each slot */
  const float* combine;  /* f32[G,S,E,P], Soft MoE: share of each slot in the output of each token */
  const int32_t* token;  /* i32[N,T], the position of each original token among those of its image, S / images of a
                            group; NULL if nothing can be merged */
  int64_t image_tokens;  /* T; 0 if nothing can be merged */
} vmoe_layer_routing;

#define VMOE_LAYER_ROUTING_INIT \
  {sizeof(vmoe_layer_routing), NULL, 0, 0, 0, NULL, 0, 0, NULL, NULL, 0, 0, NULL, NULL, NULL, 0}

/* Where each MoE layer sends the tokens of a batch; arguments as for vmoe_engine_run.
 *
 * routing: receives the result, to be freed with vmoe_routing_free; NULL on failure. It may outlive the
 * engine.
 */
VMOE_API vmoe_status* vmoe_engine_routing(const vmoe_engine* engine, const vmoe_images* images,
                                          const vmoe_setting* setting, vmoe_routing** routing);

/* Number of MoE layers in a result; 0 for a dense ViT and for NULL. */
VMOE_API int64_t vmoe_routing_num_layers(const vmoe_routing* routing);

/* One layer of a result, 0 <= index < vmoe_routing_num_layers. */
VMOE_API vmoe_status* vmoe_routing_layer(const vmoe_routing* routing, int64_t index, vmoe_layer_routing* layer);

/* Frees a result; NULL is fine. */
VMOE_API void vmoe_routing_free(vmoe_routing* routing);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-*) */

#endif /* VMOE_ENGINE_H_ */
