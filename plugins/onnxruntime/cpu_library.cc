// The ops of the op library for the CPU.
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {

OpList LibraryOps() {
  ProcessKernels();
  OpList list;
  AddSparseMlp(list);
  AddRoute(list);
  AddDispatch(list);
  AddRouteDispatch(list);
  AddExpertMlp(list);
  AddCombine(list);
  AddLinear(list);
  AddDenseMlp(list);
  AddAttention(list);
  return list;
}

}  // namespace vmoe::ort
