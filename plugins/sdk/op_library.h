// The op library that was installed with this one.
#ifndef VMOE_SDK_OP_LIBRARY_H_
#define VMOE_SDK_OP_LIBRARY_H_

#include <string>

namespace vmoe::sdk {

struct OpLibrary {
  std::string path;     // empty where there is none, or none that can be loaded
  std::string failure;  // why not, in words; empty otherwise
};

// libvmoe_onnxruntime.so beside this library. Looked for once.
const OpLibrary& find_op_library();

// The instruction set that the kernels of an op library that is loaded take, such as "amx".
std::string op_library_cpu_path(const std::string& library);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OP_LIBRARY_H_
