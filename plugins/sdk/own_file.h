// A plain file of a bundle folder: a link could lead out of the bundle, and reading a pipe might never end.
#ifndef VMOE_SDK_OWN_FILE_H_
#define VMOE_SDK_OWN_FILE_H_

#include <cstdint>
#include <string>

namespace vmoe::sdk {

class OwnFile {
 public:
  // Throws VMOE_BUNDLE_ERROR, naming the file: it is missing, or a link, folder, device or pipe.
  OwnFile(const std::string& folder, const std::string& name);
  ~OwnFile();
  OwnFile(const OwnFile&) = delete;
  OwnFile& operator=(const OwnFile&) = delete;

  // In bytes, when it was opened.
  int64_t size() const { return size_; }

  // The first bytes of the file, at most `limit`; from its start, each time.
  std::string read(int64_t limit) const;

  // SHA-256 of the whole file, in hex.
  std::string sha256() const;

 private:
  // Bytes read into `buffer` from `offset` on; 0 at the end.
  size_t read_at(int64_t offset, char* buffer, size_t size) const;

  std::string name_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OWN_FILE_H_
