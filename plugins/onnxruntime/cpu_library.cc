// The op library for the CPU.
#include "core/cpu_path.h"
#include "onnxruntime/op.h"
#include "onnxruntime/weights.h"

namespace vmoe::ort {

OpList library_ops() {
  process_kernels();
  OpList list;
  add_routing_ops(list);
  add_expert_ops(list);
  add_dense_ops(list);
  add_soft_ops(list);
  return list;
}

}  // namespace vmoe::ort

// Returns the name of the CPU path that the kernels use in this process, such as "amx". The string lives as long as the
// library.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cpu_path() {
  return vmoe::cpu_path_name(vmoe::chosen_cpu_path().path);
}
