// A folder whose files are read once. Detects whether the folder, or a file that was read, has since been written to,
// renamed or replaced.
//
// ONNX Runtime opens files by name after they have been checked. A load therefore records the state of the folder and
// of each file that it reads. At its end, it checks that these states have not changed. A rename, a new link and a
// write each change a file's ctime, and no program can set a ctime.
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

  // Opens a regular file for reading. Several threads may open a file at the same time if it has been opened before.
  //
  // Throws VMOE_BUNDLE_ERROR if the file is missing, or is a link, folder, device or pipe. Throws ChangedError if the
  // file has changed since it was first opened.
  OpenFile open(const std::string& name);

  // Returns the size in bytes that a file had when it was first opened.
  int64_t size(const std::string& name) const { return states_.at(name)[2]; }

  // Waits long enough that any later change to the folder or to an opened file gets a new timestamp.
  void settle() const;

  // Returns whether the folder or an opened file has been written to, renamed or replaced since it was first opened.
  bool has_changed() const;

  // Returns a text with the names and states of the folder and of the opened files.
  std::string states() const;

 private:
  std::string path_;
  std::map<std::string, FileState> states_;  // keys are file names; the folder itself has the key "."
};

// Reads `size` bytes from a file, or fewer at the end of the file. Returns the number of bytes read. Throws
// VMOE_BUNDLE_ERROR if reading fails.
size_t read_some(FILE* file, char* buffer, size_t size);

// Reads the rest of a file, but at most `limit` bytes, and returns it. Throws VMOE_BUNDLE_ERROR if reading fails.
std::string read_all(FILE* file, size_t limit);

}  // namespace vmoe::sdk
