// The ops of the op library for the CPU, and the path that they take.
#include <string>

#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {

OpList LibraryOps() {
  ProcessKernels();
  OpList list;
#define VMOE_ADD(Name) Add##Name(list);
  VMOE_FOR_EACH_OP(VMOE_ADD)
#undef VMOE_ADD
  return list;
}

}  // namespace vmoe::ort

// The path's name, or null where VMOE_CPU_PATH names none that this machine has.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cpu_path() {
  vmoe::CpuPath path;
  std::string error;
  return vmoe::ChosenCpuPath(&path, &error) ? vmoe::CpuPathName(path) : nullptr;
}
