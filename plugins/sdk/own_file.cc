#include "sdk/own_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "sdk/error.h"
#include "sdk/sha256.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;

[[noreturn]] void fail_system(const std::string& name) { fail(VMOE_BUNDLE_ERROR, name, ": ", system_error(errno)); }

void check_kind(const std::string& name, mode_t mode) {
  if (S_ISREG(mode)) return;
  const char* kind = S_ISLNK(mode) ? "link" : S_ISDIR(mode) ? "folder" : "device or pipe";
  fail(VMOE_BUNDLE_ERROR, name, " is a ", kind, ", and a bundle holds plain files only");
}

}  // namespace

OwnFile::OwnFile(const std::string& folder, const std::string& name) : name_(name) {
  const std::string path = folder + "/" + name;
  struct stat state{};
  if (lstat(path.c_str(), &state) != 0) fail_system(name);
  check_kind(name, state.st_mode);
  // Whatever was put in its place meanwhile is neither followed nor waited for.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor_ < 0) fail_system(name);
  if (fstat(descriptor_, &state) != 0 || !S_ISREG(state.st_mode)) {
    ::close(descriptor_);
    check_kind(name, state.st_mode);
    fail_system(name);
  }
  size_ = state.st_size;
}

OwnFile::~OwnFile() { ::close(descriptor_); }

size_t OwnFile::read_at(int64_t offset, char* buffer, size_t size) const {
  while (true) {
    const ssize_t count = pread(descriptor_, buffer, size, offset);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) fail_system(name_);
  }
}

std::string OwnFile::read(int64_t limit) const {
  std::string bytes(static_cast<size_t>(std::min(limit, size_)), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const size_t count = read_at(static_cast<int64_t>(done), bytes.data() + done, bytes.size() - done);
    if (count == 0) break;
    done += count;
  }
  bytes.resize(done);
  return bytes;
}

std::string OwnFile::sha256() const {
  Sha256 hash;
  std::vector<char> chunk(kChunkBytes);
  int64_t offset = 0;
  while (const size_t count = read_at(offset, chunk.data(), chunk.size())) {
    hash.update(chunk.data(), count);
    offset += static_cast<int64_t>(count);
  }
  return hash.hex();
}

}  // namespace vmoe::sdk
