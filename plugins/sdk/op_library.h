// The op library that was installed with this one.
#ifndef VMOE_SDK_OP_LIBRARY_H_
#define VMOE_SDK_OP_LIBRARY_H_

#include <string>

namespace vmoe::sdk {

// Path of libvmoe_onnxruntime.so beside this library; empty where there is none.
std::string find_op_library();

// The instruction set that the kernels of an op library that is loaded take, such as "amx".
std::string op_library_cpu_path(const std::string& library);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OP_LIBRARY_H_
