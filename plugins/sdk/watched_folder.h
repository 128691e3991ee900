// A folder whose files are read once: whatever is written, renamed or replaced in it meanwhile is noticed.
//
// A runtime opens files by their names, after they were checked. So the state of the folder and of each file that was
// read is compared when all is done: a rename, a new link and a write each change the time of a file's last change,
// which nobody can set.
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

// Device, inode, size in bytes, and the times of the last write and of the last change in nanoseconds.
using FileState = std::array<int64_t, 5>;

using OpenFile = std::unique_ptr<FILE, int (*)(FILE*)>;

class WatchedFolder {
 public:
  // path: a folder, or a link to one. Throws VMOE_BUNDLE_ERROR: there is none.
  explicit WatchedFolder(const std::string& path);

  // Where a runtime finds the files.
  const std::string& path() const { return path_; }

  // One plain file, for reading. Throws VMOE_BUNDLE_ERROR: it is missing, or a link, a folder, a device or a pipe.
  // Throws ChangedError: it isn't as it was when it was opened before. Files that were opened before may be opened
  // again from several threads.
  OpenFile open(const std::string& name);

  // Bytes of a file when it was opened first.
  int64_t size(const std::string& name) const { return states_.at(name)[2]; }

  // Waits until the next change of the folder, or of a file that was opened, shows.
  void settle() const;

  // Whether the folder, or a file that was opened in it, was written to, renamed or replaced since.
  bool has_changed() const;

  // States of the folder and of the files that were opened, with their names, as text.
  std::string states() const;

 private:
  std::string path_;
  std::map<std::string, FileState> states_;  // of the folder itself by "."
};

// Reads from a file, at most `size` bytes; fewer at its end. Throws VMOE_BUNDLE_ERROR.
size_t read_some(FILE* file, char* buffer, size_t size);

// The rest of a file, at most `limit` bytes. Throws VMOE_BUNDLE_ERROR.
std::string read_all(FILE* file, size_t limit);

}  // namespace vmoe::sdk
