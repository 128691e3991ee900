// A folder whose files are read once. Detects whether the folder, or a file that was read, has been written to, renamed
// or replaced since then.
//
// ONNX Runtime opens files by name after they have been checked. Therefore, the states of the folder and of each file
// that was read are compared at the end of a load with their states at the start. A rename, a new link and a write each
// change a file's ctime, and no program can set a ctime.
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

// Device, inode, size in bytes, mtime and ctime, in this order. Times are in nanoseconds.
using FileState = std::array<int64_t, 5>;

using OpenFile = std::unique_ptr<FILE, int (*)(FILE*)>;

class WatchedFolder {
 public:
  // path: a folder, or a link to a folder.
  //
  // Throws VMOE_BUNDLE_ERROR if there is no folder at `path`.
  explicit WatchedFolder(const std::string& path);

  // Returns the folder's path without links, which is to be passed to the runtime.
  const std::string& path() const { return path_; }

  // Opens a regular file for reading. Files that have been opened before may be opened again by several threads at
  // once.
  //
  // Throws VMOE_BUNDLE_ERROR if the file is missing, or is a link, folder, device or pipe. Throws ChangedError if the
  // file has changed since it was first opened.
  OpenFile open(const std::string& name);

  // Returns the size in bytes that a file had when it was first opened.
  int64_t size(const std::string& name) const { return states_.at(name)[2]; }

  // Waits until any later change of the folder or of an opened file is certain to get a new timestamp.
  void settle() const;

  // Returns whether the folder or an opened file has been written to, renamed or replaced since it was opened.
  bool has_changed() const;

  // Returns a text with the names and states of the folder and of the opened files.
  std::string states() const;

 private:
  std::string path_;
  std::map<std::string, FileState> states_;  // by file name; the name of the folder itself is "."
};

// Reads `size` bytes from a file, or fewer at the end of the file. Returns the number of bytes read. Throws
// VMOE_BUNDLE_ERROR if reading fails.
size_t read_some(FILE* file, char* buffer, size_t size);

// Reads and returns the rest of a file, but at most `limit` bytes. Throws VMOE_BUNDLE_ERROR if reading fails.
std::string read_all(FILE* file, size_t limit);

}  // namespace vmoe::sdk
