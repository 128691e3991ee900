// The op library installed next to this library.
#pragma once

#include <filesystem>
#include <string>

namespace vmoe::sdk {

// Returns the folder that this library was loaded from; empty if unknown.
const std::filesystem::path& own_folder();

struct OpLibrary {
  std::string path;      // empty if there is none that can be loaded
  std::string cpu_path;  // the instruction set that its kernels use, such as "amx"
  std::string failure;   // if there is none: a message with the reason and the remedy
};

// Finds libvmoe_onnxruntime.so next to this library. The first call searches; later calls return the same result.
const OpLibrary& find_op_library();

}  // namespace vmoe::sdk
