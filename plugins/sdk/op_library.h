// The op library that was installed with this one.
#pragma once

#include <filesystem>
#include <string>

namespace vmoe::sdk {

// Where this library was loaded from; empty if that can't be told.
const std::filesystem::path& own_folder();

struct OpLibrary {
  std::string path;      // empty where there is none, or none that can be loaded
  std::string cpu_path;  // the instruction set that its kernels take, such as "amx"
  std::string failure;   // why there is none, in words, and what to do; empty otherwise
};

// libvmoe_onnxruntime.so beside this library. Looked for once.
const OpLibrary& find_op_library();

}  // namespace vmoe::sdk
