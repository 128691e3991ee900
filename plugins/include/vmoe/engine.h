/* C API of the vmoe engine: loads a bundle (NAME.vmoe) and runs it on the CPU. Each call chooses its own capacity.
 *
 * Errors are values. A function that can fail returns a vmoe_status*, which is NULL on success. A status holds one
 * message for the person who made the call, and the caller frees it. No C++ exception leaves the library. The library
 * prints nothing; use vmoe_set_log to receive log messages.
 *
 * Structs start with `struct_size`. Set it to the sizeof of the struct; the VMOE_*_INIT macros do this. Later versions
 * only add fields at the end. Fields that this version of the library doesn't know must be zero. Later versions may
 * also add enum values, so handle unknown codes, precisions and kinds with a default case.
 *
 * Strings are UTF-8 and end with a zero byte. A `const char*` from an engine lives as long as the engine.
 *
 * Threads: any thread may call any function, and many threads may use one engine at once. Don't use an object while its
 * `*_free` function runs.
 *
 * Letters in shapes: N images, H height, W width, C channels, G routing groups, S tokens per group, K experts per
 * token, E experts, P slots per expert (Soft MoE), c slots per expert and group, M ensemble members (E3), T tokens per
 * image, D features per token.
 */
#ifndef VMOE_ENGINE_H_
#define VMOE_ENGINE_H_

/* NOLINTBEGIN(modernize-*): this is C. */

#include <stddef.h>
#include <stdint.h>

#include "vmoe/precisions.h"
#include "vmoe/routing_kinds.h"
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
  VMOE_ARGUMENT_ERROR = 1, /* a null pointer, a buffer that is too small, or an index out of range */
  VMOE_BUNDLE_ERROR = 2,   /* the bundle is missing, damaged, changed after export, or of another format version */
  VMOE_ROUTING_ERROR = 3,  /* the model does not support the profile or setting */
  VMOE_IMAGE_ERROR = 4,    /* the model does not accept the images: see vmoe_engine_check_images */
  /* One of:
   * - ONNX Runtime is missing, too old, or failed;
   * - the number of threads is out of range;
   * - the engine was loaded before this process was forked;
   * - the images are finite, but the model's output is not. */
  VMOE_RUNTIME_ERROR = 5,
  VMOE_MEMORY_ERROR = 6, /* out of memory */
  VMOE_CANCELLED = 7,    /* the call was cancelled, or the request to vmoe::Batcher was */
  VMOE_BUSY = 8,         /* vmoe::Batcher: the queue is full */
  VMOE_CLOSED = 9        /* vmoe::Batcher: the batcher is closed */
} vmoe_code;

typedef struct vmoe_status vmoe_status;

/* Returns the code of a status; VMOE_OK for NULL. */
VMOE_API vmoe_code vmoe_status_code(const vmoe_status* status);

/* Returns the message, which the status owns; empty for NULL. */
VMOE_API const char* vmoe_status_message(const vmoe_status* status);

/* Frees a status; NULL is fine. */
VMOE_API void vmoe_status_free(vmoe_status* status);

/* Returns the version of this library, such as "0.1.0", as a static string. */
VMOE_API const char* vmoe_version(void);

/* ---- Log ---- */

typedef enum vmoe_log_level {
  VMOE_LOG_DEBUG = 0, /* ONNX Runtime's INFO messages: several hundred per load */
  VMOE_LOG_INFO = 1,  /* a bundle was loaded: path, time, profile, runtime, and whether it shares a session */
  /* One of:
   * - the op library is missing or can't be loaded (at most twice per process);
   * - a bundle was replaced while it was being loaded;
   * - images contain NaN (once per process);
   * - a picture has an EXIF orientation that the model ignores (once per process);
   * - this build of ONNX Runtime prints to stderr by itself;
   * - a warning of ONNX Runtime. */
  VMOE_LOG_WARNING = 2,
  VMOE_LOG_ERROR = 3 /* an error of ONNX Runtime, which the status of the call reports too */
} vmoe_log_level;

/* Receives one message: one line of UTF-8 that is valid until the callback returns. Any thread may call it, including
 * those of ONNX Runtime, and several threads may call it at once. It must not throw.
 *
 * It may call the functions of this library, with two exceptions: vmoe_engine_load fails there with
 * VMOE_ARGUMENT_ERROR, and objects in use must not be freed. Messages that the callback itself causes on its thread are
 * dropped.
 */
typedef void (*vmoe_log_callback)(void* user, vmoe_log_level level, const char* message);

/* Sets the log callback of this process. Set it before the first load if possible; nothing is logged until then.
 *
 * When this function returns, the previous callback has been released and no thread runs it any more. There are two
 * exceptions:
 * - if called inside a callback, it doesn't wait: the old callback is released when its last call ends;
 * - if the process was forked after the old callback was set, it doesn't wait for running calls.
 *
 * To avoid a deadlock, don't hold a lock that the callback takes.
 *
 * ONNX Runtime's messages begin with "ONNX Runtime: ". Messages about loads and runs of this library's sessions always
 * arrive, at the current level. Other messages depend on the environment of ONNX Runtime (OrtEnv), of which each
 * process has one:
 * - If the first load creates it while a callback is set, the callback also receives messages that belong to no
 *   session, such as those about threads that can't be pinned, and those of all other users of the environment. Their
 *   level is fixed at that time.
 * - If it existed before, its logging stays unchanged.
 *
 * least_level: the lowest vmoe_log_level to receive.
 * callback: NULL for none; `user` and `release` are then ignored.
 * user: passed to the callback.
 * release: called once with `user` when the callback will not be called again; may be NULL. If vmoe_set_log fails, it
 *   is not called and the previous callback stays.
 */
VMOE_API vmoe_status* vmoe_set_log(int32_t least_level, vmoe_log_callback callback, void* user,
                                   void (*release)(void* user));

/* ---- Loading ---- */

typedef struct vmoe_engine vmoe_engine;

typedef struct vmoe_load_options {
  size_t struct_size;
  /* Threads per call: 1 to 64, or to four per CPU if that is more. 0 lets ONNX Runtime choose, but never more than the
   * CPUs that the calling thread may run on, nor more than a container's CPU limit. */
  int32_t threads;
  /* 1 compares the SHA-256 of every file; 0 skips only this check. */
  int32_t verify;
  /* Profile for calls that pass no setting: a stored name, or any systematic name such as "c0.3-k1". NULL selects the
   * first stored profile. */
  const char* profile;
  /* Path of the ONNX Runtime library; a version that is too old is refused. NULL takes the first of:
   * - a library that the process has already loaded;
   * - the path in the environment variable VMOE_ONNXRUNTIME;
   * - the one in the Python environment that this library was installed into;
   * - libonnxruntime.so, then libonnxruntime.so.1, on the library path (macOS: libonnxruntime.dylib, then
   *   libonnxruntime.1.dylib). */
  const char* onnxruntime;
  /* 1 lets ONNX Runtime's threads spin for tens of milliseconds after a call; 0 lets them sleep at once. */
  int32_t spin;
  int32_t reserved; /* 0 */
} vmoe_load_options;

#define VMOE_LOAD_OPTIONS_INIT {sizeof(vmoe_load_options), 0, 1, NULL, NULL, 0, 0}

/* Loads a bundle. It uses the op library libvmoe_onnxruntime.so if that is next to this library and can be loaded.
 * Otherwise the bundle runs on standard ops, and vmoe_info.runtime says why. Engines in a process share one session and
 * its memory if bundle, threads, spin and ONNX Runtime match. If the bundle is replaced during the load, it is loaded
 * again, up to three attempts in all.
 *
 * After a fork, calls in the child on engines of the parent fail: load the bundle in the process that runs it. If the
 * environment variable ORT_DISABLE_TELEMETRY is not set, the first load that opens ONNX Runtime sets it to 1. It uses
 * setenv, which is not safe while other threads read the environment. If there are such threads, set the variable
 * yourself at the start.
 *
 * path: the NAME.vmoe folder.
 * options: NULL for the defaults.
 * engine: receives the engine; free it with vmoe_engine_free. NULL on failure.
 */
VMOE_API vmoe_status* vmoe_engine_load(const char* path, const vmoe_load_options* options, vmoe_engine** engine);

/* Frees an engine; NULL is fine. No call on it may be running. */
VMOE_API void vmoe_engine_free(vmoe_engine* engine);

/* ---- Metadata ---- */

typedef enum vmoe_dtype { VMOE_FLOAT32 = 1, VMOE_UINT8 = 2 } vmoe_dtype;

/* The outputs that a bundle can have, per image:
 * - LOGITS: [classes]. Those of an ensemble of experts (E3) are the logarithm of its members' mean probability.
 * - FEATURES: [D], the embedding that a head takes, where D is its size.
 * - MEMBERS: [M, classes], the logits of each member of an ensemble.
 * - TOKENS: [T, D], all tokens.
 */
typedef enum vmoe_output { VMOE_LOGITS = 1, VMOE_FEATURES = 2, VMOE_MEMBERS = 3, VMOE_TOKENS = 4 } vmoe_output;

/* How to turn logits into probabilities: a softmax over all classes, or a sigmoid per class, as in SigLIP. */
typedef enum vmoe_probabilities { VMOE_SOFTMAX = 1, VMOE_SIGMOID = 2 } vmoe_probabilities;

typedef struct vmoe_info {
  size_t struct_size;
  int64_t height, width, channels;   /* of an image */
  int32_t input_dtype;               /* vmoe_dtype of the graph's input; either accepts uint8 images */
  int32_t output;                    /* vmoe_output */
  int64_t output_size;               /* floats per image of `output` */
  int64_t batch_multiple;            /* the number of images in a batch must be a multiple of this */
  int64_t num_profiles;              /* stored profiles; 0 for a dense ViT and Soft MoE */
  int64_t num_class_names;           /* the number of classes, or 0 if the bundle has no names */
  int64_t num_moe_layers;            /* 0 for a dense ViT */
  int64_t num_experts;               /* E, the largest if layers differ; 0 for a dense ViT */
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
  int64_t patch_rows, patch_columns; /* patches of an image; 0 if unknown */
  int64_t num_outputs;               /* `output` and the blocks exported with --layers: see vmoe_engine_output */
} vmoe_info;

#define VMOE_INFO_INIT \
  {sizeof(vmoe_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0}

/* Fills `info`. */
VMOE_API vmoe_status* vmoe_engine_info(const vmoe_engine* engine, vmoe_info* info);

/* An output of a bundle: float32[N, rows, columns], or float32[N, columns] if `rows` is 0. */
typedef struct vmoe_output_shape {
  size_t struct_size;
  const char* name; /* "logits", "features", "members", "tokens"; or "layer3", the residual stream after block 3 */
  int64_t rows;     /* tokens, or members of an ensemble; 0 for logits and features */
  int64_t columns;
} vmoe_output_shape;

#define VMOE_OUTPUT_SHAPE_INIT {sizeof(vmoe_output_shape), NULL, 0, 0}

/* Describes an output, 0 <= index < num_outputs; index 0 is vmoe_info.output. */
VMOE_API vmoe_status* vmoe_engine_output(const vmoe_engine* engine, int64_t index, vmoe_output_shape* output);

/* Gets the name of a class, 0 <= index < num_class_names. */
VMOE_API vmoe_status* vmoe_engine_class_name(const vmoe_engine* engine, int64_t index, const char** name);

/* Gets the name of a MoE block, such as "encoderblock_1", 0 <= index < num_moe_layers. */
VMOE_API vmoe_status* vmoe_engine_moe_layer(const vmoe_engine* engine, int64_t index, const char** name);

/* ---- Routing settings ---- */

/* Gets a stored profile, 0 <= index < num_profiles.
 *
 * slots: receives c of each MoE layer, int64[num_moe_layers]; or NULL.
 * slots_size: elements that `slots` can hold, at least num_moe_layers.
 */
VMOE_API vmoe_status* vmoe_engine_profile(const vmoe_engine* engine, int64_t index, vmoe_profile* profile,
                                          int64_t* slots, size_t slots_size);

/* Gets the profile that a call with this setting uses; a NULL setting selects the engine's profile. `slots`
 * is as in vmoe_engine_profile. Fails with VMOE_ROUTING_ERROR if the model does not support the setting, or if the call
 * has no profile, as for a dense ViT or Soft MoE that merges no tokens. */
VMOE_API vmoe_status* vmoe_engine_setting(const vmoe_engine* engine, const vmoe_setting* setting, vmoe_profile* profile,
                                          int64_t* slots, size_t slots_size);

/* ---- Running ---- */

/* A batch: dtype[N,H,W,C], contiguous, N >= 1; float32 in [-1, 1], or uint8 in 0..255. uint8 images for a float32
 * bundle are scaled to pixel / 255 * 2 - 1; a uint8 bundle does not accept float32 images. A NaN pixel makes the
 * outputs of its image NaN. If the bundle routes images in groups, it can also change the outputs of other images. The
 * library only reads the data, and only during the call. */
typedef struct vmoe_images {
  size_t struct_size;
  const void* data;
  size_t data_bytes; /* N * H * W * C * sizeof(dtype) */
  int32_t dtype;     /* vmoe_dtype */
  int32_t reserved;  /* 0 */
  int64_t count, height, width, channels;
} vmoe_images;

#define VMOE_IMAGES_INIT {sizeof(vmoe_images), NULL, 0, 0, 0, 0, 0, 0, 0}

/* One decoded picture of any size: uint8[height,width,channels] in 0..255, contiguous. It has the channels of the model
 * (RGB if the model takes three), optionally followed by an alpha channel. The library only reads the data, and only
 * during the call. */
typedef struct vmoe_picture {
  size_t struct_size;
  const uint8_t* data;
  size_t data_bytes; /* height * width * channels */
  int64_t height, width, channels;
  /* EXIF orientation, 1 to 8; 0 if the file has none. Applied if vmoe_info.preprocessing has `exif`. */
  int32_t orientation;
  int32_t reserved; /* 0 */
} vmoe_picture;

#define VMOE_PICTURE_INIT {sizeof(vmoe_picture), NULL, 0, 0, 0, 0, 0, 0}

/* Prepares one image from a picture with the steps in vmoe_info.preprocessing. The result has the same bits as in
 * Python. It needs little memory besides the image.
 *
 * image: the caller's memory, aligned to the dtype; receives dtype[H,W,C], where dtype is the engine's input: float32
 *   in [-1, 1], or uint8.
 * image_bytes: bytes that `image` can hold, at least H * W * C * sizeof(dtype).
 */
VMOE_API vmoe_status* vmoe_engine_prepare_image(const vmoe_engine* engine, const vmoe_picture* picture, void* image,
                                                size_t image_bytes);

/* Checks a batch. Every call that takes a batch makes the same checks. Fails with VMOE_IMAGE_ERROR for:
 * - a shape or dtype that the model does not take;
 * - a number of images that is not a positive multiple of batch_multiple;
 * - a data_bytes that does not match shape and dtype;
 * - float32 values beyond [-2, 2], such as unscaled pixels in 0..255.
 *
 * Fails with VMOE_ARGUMENT_ERROR if `data` is NULL or not aligned to the dtype.
 */
VMOE_API vmoe_status* vmoe_engine_check_images(const vmoe_engine* engine, const vmoe_images* images);

/* Runs a batch and returns its first output: vmoe_info.output.
 *
 * setting: NULL for the engine's profile; NULL or empty for a dense ViT and Soft MoE, unless they merge tokens.
 * output: the caller's memory; receives float32[N, output_size].
 * output_size: floats that `output` can hold, at least N * vmoe_info.output_size.
 */
VMOE_API vmoe_status* vmoe_engine_run(const vmoe_engine* engine, const vmoe_images* images, const vmoe_setting* setting,
                                      float* output, size_t output_size);

/* Runs a batch of `count` zero images, which allocates memory and reads the weights into the page cache. This makes the
 * first call with this setting and number of images fast. Other settings need different amounts of memory.
 *
 * count: a multiple of batch_multiple, 1 or more.
 * setting: as in vmoe_engine_run. The errors are the same, too.
 */
VMOE_API vmoe_status* vmoe_engine_warm_up(const vmoe_engine* engine, int64_t count, const vmoe_setting* setting);

/* Ends running calls from another thread. One cancellation serves any number of calls, at once or in sequence. */
typedef struct vmoe_cancellation vmoe_cancellation;

/* Creates a cancellation.
 *
 * cancellation: receives it; free it with vmoe_cancellation_free. NULL on failure.
 */
VMOE_API vmoe_status* vmoe_cancellation_create(vmoe_cancellation** cancellation);

/* Cancels permanently. Running calls that use this cancellation end before the next op of the graph; later calls fail
 * at once. A call without further ops returns its results. Does nothing if already cancelled, or if `cancellation` is
 * NULL. */
VMOE_API void vmoe_cancellation_cancel(vmoe_cancellation* cancellation);

/* Frees a cancellation; NULL is fine. No running call may use it. */
VMOE_API void vmoe_cancellation_free(vmoe_cancellation* cancellation);

/* As vmoe_engine_run, but the call can be cancelled. It then returns VMOE_CANCELLED. Writes `output` on success only.
 *
 * cancellation: NULL for a call that cannot be cancelled.
 */
VMOE_API vmoe_status* vmoe_engine_run_cancellable(const vmoe_engine* engine, const vmoe_images* images,
                                                  const vmoe_setting* setting, vmoe_cancellation* cancellation,
                                                  float* output, size_t output_size);

/* Runs a batch once and returns several outputs.
 *
 * names: `count` different names of outputs, such as "tokens" and "layer3"; `count` is 1 or more.
 * outputs: the caller's memory for each output; receives float32[N, rows, columns].
 * output_sizes: floats that each of `outputs` can hold.
 * The other arguments are as in vmoe_engine_run_cancellable.
 */
VMOE_API vmoe_status* vmoe_engine_run_outputs(const vmoe_engine* engine, const vmoe_images* images,
                                              const vmoe_setting* setting, vmoe_cancellation* cancellation,
                                              const char* const* names, float* const* outputs,
                                              const size_t* output_sizes, size_t count);

typedef struct vmoe_routing vmoe_routing;

/* How one MoE layer routed its tokens. Pointers live as long as the vmoe_routing; they are NULL if the routing kind has
 * no such value. `choices` is K for top-k, E for expert choice (where each pair of a token and an expert is a choice),
 * and 0 for Soft MoE. */
typedef struct vmoe_layer_routing {
  size_t struct_size;
  const char* layer;               /* such as "encoderblock_1" */
  int64_t groups, tokens, choices; /* G, S, K */
  const float* weight;   /* f32[G,S,K], top-k and expert choice: raw gate of each choice, dropped ones included */
  int32_t kind;          /* vmoe_routing_kind */
  int32_t reserved;      /* 0 */
  const int32_t* expert; /* i32[G,S,K], top-k: the expert of each choice, dropped ones included */
  const uint8_t* kept;   /* u8[G,S,K], top-k and expert choice: 1 if the choice was computed, 0 if dropped */
  int64_t experts;       /* E */
  int64_t slots;         /* P, Soft MoE; 0 otherwise */
  const float* dispatch; /* f32[G,S,E,P], Soft MoE: share of each token in each slot */
  const float* combine;  /* f32[G,S,E,P], Soft MoE: share of each slot in the output of each token */
  /* i32[N,T]: for each original token, the index of its merged token among the G * S / N merged tokens of its image;
   * NULL if the bundle can't merge tokens */
  const int32_t* token;
  int64_t image_tokens; /* T; 0 if the bundle can't merge tokens */
} vmoe_layer_routing;

#define VMOE_LAYER_ROUTING_INIT \
  {sizeof(vmoe_layer_routing), NULL, 0, 0, 0, NULL, 0, 0, NULL, NULL, 0, 0, NULL, NULL, NULL, 0}

/* Runs a batch and returns how each MoE layer routed its tokens. The arguments are as in vmoe_engine_run.
 *
 * routing: receives the result; free it with vmoe_routing_free. NULL on failure. It may outlive the engine.
 */
VMOE_API vmoe_status* vmoe_engine_routing(const vmoe_engine* engine, const vmoe_images* images,
                                          const vmoe_setting* setting, vmoe_routing** routing);

/* Returns the number of MoE layers in a result; 0 for a dense ViT and for NULL. */
VMOE_API int64_t vmoe_routing_num_layers(const vmoe_routing* routing);

/* Gets one layer of a result, 0 <= index < vmoe_routing_num_layers. */
VMOE_API vmoe_status* vmoe_routing_layer(const vmoe_routing* routing, int64_t index, vmoe_layer_routing* layer);

/* Frees a result; NULL is fine. */
VMOE_API void vmoe_routing_free(vmoe_routing* routing);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-*) */

#endif /* VMOE_ENGINE_H_ */
