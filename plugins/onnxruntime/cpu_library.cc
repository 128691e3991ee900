// The ops of the op library for the CPU.
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
