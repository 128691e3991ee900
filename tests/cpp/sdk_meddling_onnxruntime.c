/* Wraps the ONNX Runtime at MEDDLE_LIBRARY. Exchanges the paths MEDDLE_ONE and MEDDLE_OTHER before it creates a session
 * from bytes, and exchanges them back afterwards, MEDDLE_TIMES times. */
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const OrtApiBase* real_base;
static const OrtApi* real_api;
static int times;

static void move(const char* from, const char* to) {
  if (rename(from, to) != 0) {
    perror(from);
    abort();
  }
}

static void exchange(void) {
  const char *one = getenv("MEDDLE_ONE"), *other = getenv("MEDDLE_OTHER");
  char between[4096];
  snprintf(between, sizeof between, "%s.between", other);
  move(one, between);
  move(other, one);
  move(between, other);
}

static OrtStatusPtr ORT_API_CALL create_session(const OrtEnv* env, const void* bytes, size_t size,
                                                const OrtSessionOptions* options, OrtSession** session) {
  const int meddles = times > 0;
  times -= meddles;
  if (meddles) exchange();
  OrtStatusPtr status = real_api->CreateSessionFromArray(env, bytes, size, options, session);
  if (meddles) exchange();
  return status;
}

static const OrtApi* ORT_API_CALL get_api(uint32_t version) {
  static OrtApi api;
  real_api = real_base->GetApi(version);
  if (real_api == NULL || version > ORT_API_VERSION) return NULL;
  memcpy(&api, real_api, sizeof api);
  api.CreateSessionFromArray = create_session;
  return &api;
}

static const char* ORT_API_CALL get_version(void) { return real_base->GetVersionString(); }

const OrtApiBase* ORT_API_CALL OrtGetApiBase(void) {
  static const OrtApiBase base = {get_api, get_version};
  if (real_base != NULL) return &base; /* every load requests it */
  void* library = dlopen(getenv("MEDDLE_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) abort();
  real_base = ((const OrtApiBase* (*)(void))dlsym(library, "OrtGetApiBase"))();
  times = atoi(getenv("MEDDLE_TIMES"));
  return &base;
}
