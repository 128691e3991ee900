/* The C header compiles as C, and the library answers from C: prints the version and what becomes of a bundle. */
#include <stdio.h>

#include "vmoe/elastic.h"
#include "vmoe/engine.h"

int main(int argc, char** argv) {
  vmoe_engine* engine = NULL;
  vmoe_load_options options = VMOE_LOAD_OPTIONS_INIT;
  vmoe_status* status;
  if (argc != 3) return 2;
  options.onnxruntime = argv[2];
  status = vmoe_engine_load(argv[1], &options, &engine);
  printf("%s %d %s\n", vmoe_version(), vmoe_status_code(status), vmoe_status_message(status));
  vmoe_status_free(status);
  vmoe_engine_free(engine);
  return 0;
}
