// The op library that was installed with this one.
#ifndef VMOE_SDK_OP_LIBRARY_H_
#define VMOE_SDK_OP_LIBRARY_H_

#include <string>

namespace vmoe::sdk {

// Path of libvmoe_onnxruntime.so beside this library; empty where there is none.
std::string find_op_library();

// The CPU path that an op library takes which is loaded already, such as "amx"; empty where it doesn't say.
std::string cpu_path_of(const std::string& op_library);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OP_LIBRARY_H_
