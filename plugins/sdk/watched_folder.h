// A folder whose files are read once. Detects whether it or a file that was read is written, renamed or replaced
// meanwhile.
//
// ONNX Runtime opens files by name, after they have been checked. So when the load is done, the states of the folder
// and of each file that was read are compared with those at the start. A rename, a new link and a write each change a
// file's ctime, and no program can set a ctime.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

namespace vmoe::sdk {

// Device, inode, size in bytes, mtime and ctime; times are in nanoseconds.
using FileState = std::array<int64_t, 5>;

using OpenFile = std::unique_ptr<FILE, int (*)(FILE*)>;

class WatchedFolder {
 public:
  // path: a folder, or a link to one. Throws VMOE_BUNDLE_ERROR if there is none.
  explicit WatchedFolder(const std::string& path);

  // The path for the runtime, with links resolved.
  const std::string& path() const { return path_; }

  // Opens a regular file for reading. Several threads may open files again that were opened before.
  //
  // Throws VMOE_BUNDLE_ERROR if the file is missing, or a link, folder, device or pipe. Throws ChangedError if the file
  // changed since it was first opened.
  OpenFile open(const std::string& name);

  // The size of a file in bytes when it was first opened.
  int64_t size(const std::string& name) const { return states_.at(name)[2]; }

  // Waits until any further change of the folder or of an opened file is sure to get a new timestamp.
  void settle() const;

  // Whether the folder or an opened file has been written to, renamed or replaced since it was opened.
  bool has_changed() const;

  // Returns the states of the folder and of the opened files, with their names, as text.
  std::string states() const;

 private:
  std::string path_;
  std::map<std::string, FileState> states_;  // "." is the folder itself
};

// Reads at most `size` bytes from a file, and fewer only at its end. Throws VMOE_BUNDLE_ERROR if reading fails.
size_t read_some(FILE* file, char* buffer, size_t size);

// Reads the rest of a file, at most `limit` bytes. Throws VMOE_BUNDLE_ERROR if reading fails.
std::string read_all(FILE* file, size_t limit);

}  // namespace vmoe::sdk
