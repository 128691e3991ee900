// A plain file of a bundle folder: a link could lead out of the bundle, and reading a pipe might never end.
#ifndef VMOE_SDK_OWN_FILE_H_
#define VMOE_SDK_OWN_FILE_H_

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <string>

namespace vmoe::sdk {

// What tells a file that was touched from one that was not; times in nanoseconds.
struct FileState {
  uint64_t device = 0, inode = 0;
  int64_t size = 0, modified = 0, changed = 0;

  explicit FileState(const struct stat& found);
  bool operator==(const FileState& other) const;
};

// The state once it is old enough that the next change shows. `look` is fstat or stat of something: not 0 where it
// fails, which throws VMOE_BUNDLE_ERROR with `name`. Throws ChangedError: it doesn't stop changing.
FileState settled_state(const std::string& name, const std::function<int(struct stat*)>& look);

class OwnFile {
 public:
  // folder: descriptor of the folder that the file is in.
  //
  // Throws VMOE_BUNDLE_ERROR, naming the file: it is missing, or a link, folder, device or pipe.
  OwnFile(int folder, const std::string& name);
  ~OwnFile();
  OwnFile(const OwnFile&) = delete;
  OwnFile& operator=(const OwnFile&) = delete;

  // When it was opened.
  const FileState& state() const { return state_; }

  // In bytes, when it was opened.
  int64_t size() const { return state_.size; }

  // The first bytes of the file, at most `limit`; from its start, each time.
  std::string read(int64_t limit) const;

  // Bytes read into `buffer` from `offset` on; 0 at the end.
  size_t read_at(int64_t offset, char* buffer, size_t size) const;

  // SHA-256 of the whole file, in hex.
  std::string sha256() const;

 private:
  std::string name_;
  int descriptor_ = -1;
  FileState state_{{}};
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OWN_FILE_H_
