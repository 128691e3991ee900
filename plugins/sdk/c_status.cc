#include "sdk/c_status.h"

#include <new>
#include <string>

struct vmoe_status {
  vmoe_code code;
  std::string message;
};

namespace vmoe::sdk {

vmoe_status* out_of_memory() {
  // Creating this status allocates nothing, because the message fits into the string's own buffer.
  alignas(vmoe_status) static unsigned char memory[sizeof(vmoe_status)];
  static auto& status = *new (memory) vmoe_status{VMOE_MEMORY_ERROR, "out of memory"};
  return &status;
}

vmoe_status* make_status(vmoe_code code, const char* message) noexcept {
  try {
    return new vmoe_status{code, one_line(message)};
  } catch (...) {
    return out_of_memory();
  }
}

}  // namespace vmoe::sdk

extern "C" {

vmoe_code vmoe_status_code(const vmoe_status* status) { return status == nullptr ? VMOE_OK : status->code; }

const char* vmoe_status_message(const vmoe_status* status) { return status == nullptr ? "" : status->message.c_str(); }

void vmoe_status_free(vmoe_status* status) {
  if (status != vmoe::sdk::out_of_memory()) delete status;
}

}  // extern "C"
