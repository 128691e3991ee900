#include "onnxruntime/process_kernels.h"

#include <string>

#include "ops/op_error.h"

namespace vmoe::ort {

const Kernels& ProcessKernels() {
  CpuPath path;
  std::string error;
  if (!ChosenCpuPath(&path, &error)) throw ops::OpError(error);
  return KernelsFor(path);
}

}  // namespace vmoe::ort
