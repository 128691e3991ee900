// The op library, which is installed next to this library.
#pragma once

#include <filesystem>
#include <string>

namespace vmoe::sdk {

// Returns the folder that this library was loaded from, or an empty path if the folder is unknown.
const std::filesystem::path& own_folder();

struct OpLibrary {
  std::string path;      // empty if no op library can be loaded
  std::string cpu_path;  // the instruction set that the op library's kernels use, such as "amx"
  std::string failure;   // reason and remedy if no op library can be loaded; otherwise empty
};

// Finds libvmoe_onnxruntime.so, the op library, next to this library. The first call searches for it; later calls
// return the same result.
const OpLibrary& find_op_library();

}  // namespace vmoe::sdk
