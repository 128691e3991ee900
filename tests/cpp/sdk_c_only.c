/* Tests that the C header compiles as C and that the library works from C. Prints the version and the result of loading
 * a bundle. Exits with 3 if a loaded bundle was not logged or does not run. */
#include <stdio.h>

#include "vmoe/elastic.h"
#include "vmoe/engine.h"

static void count_message(void* user, vmoe_log_level level, const char* message) {
  int* messages = user;
  *messages += level == VMOE_LOG_INFO && message[0] != '\0';
}

/* Warms up an engine, then cancels a call. */
static int uses(const vmoe_engine* engine) {
  vmoe_info info = VMOE_INFO_INIT;
  vmoe_cancellation* cancellation = NULL;
  vmoe_status* status;
  status = vmoe_engine_info(engine, &info);
  int is_right = status == NULL && vmoe_engine_warm_up(engine, info.batch_multiple, NULL) == NULL &&
                 vmoe_cancellation_create(&cancellation) == NULL;
  vmoe_images images = VMOE_IMAGES_INIT;
  vmoe_cancellation_cancel(cancellation);
  status = vmoe_engine_run_cancellable(engine, &images, NULL, cancellation, NULL, 0);
  is_right = is_right && vmoe_status_code(status) == VMOE_CANCELLED;
  vmoe_status_free(status);
  vmoe_cancellation_free(cancellation);
  return is_right;
}

int main(int argc, char** argv) {
  vmoe_engine* engine = NULL;
  vmoe_load_options options = VMOE_LOAD_OPTIONS_INIT;
  vmoe_status* status;
  int messages = 0, is_right = 1;
  if (argc != 3) return 2;
  options.onnxruntime = argv[2];
  if (vmoe_set_log(VMOE_LOG_INFO, count_message, &messages, NULL) != NULL) return 2;
  status = vmoe_engine_load(argv[1], &options, &engine);
  printf("%s %d %s\n", vmoe_version(), vmoe_status_code(status), vmoe_status_message(status));
  vmoe_status_free(status);
  if (engine != NULL) is_right = messages == 1 && uses(engine);
  vmoe_engine_free(engine);
  return is_right ? 0 : 3;
}
