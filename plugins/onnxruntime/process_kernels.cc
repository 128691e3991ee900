#include "onnxruntime/process_kernels.h"

#include <string>

#include "ops/op_error.h"

namespace vmoe::ort {

const Kernels& process_kernels() {
  CpuPath path;
  std::string error;
  if (!chosen_cpu_path(&path, &error)) throw ops::OpError(error);
  return kernels_for(path);
}

}  // namespace vmoe::ort
