// The ops of the op library for the CPU.
#include <string>

#include "core/cpu_path.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {

OpList library_ops() {
  process_kernels();
  OpList list;
#define VMOE_ADD(name, Name) add_##name(list);
  VMOE_FOR_EACH_OP(VMOE_ADD)
#undef VMOE_ADD
  return list;
}

}  // namespace vmoe::ort

// Name of the CPU path that the kernels take in this process, such as "amx"; it lives as long as the library.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cpu_path() {
  vmoe::CpuPath path;
  std::string error;
  vmoe::chosen_cpu_path(&path, &error);
  return vmoe::cpu_path_name(path);
}
