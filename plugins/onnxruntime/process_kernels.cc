#include "onnxruntime/process_kernels.h"

#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

const Kernels& ProcessKernels() {
  CpuPath path;
  std::string error;
  if (!ChosenCpuPath(&path, &error)) throw OpError(error);
  return KernelsFor(path);
}

}  // namespace vmoe::ort
