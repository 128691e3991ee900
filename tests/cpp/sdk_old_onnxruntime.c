/* A library that claims to be ONNX Runtime 1.20.2, and ends the process if a caller requests an API. */
#include <stdint.h>
#include <stdlib.h>

struct api_base {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)(void);
};

static const void* get_api(uint32_t version) {
  (void)version;
  abort();
}

static const char* get_version(void) { return "1.20.2"; }

const struct api_base* OrtGetApiBase(void) {
  static const struct api_base base = {get_api, get_version};
  return &base;
}
