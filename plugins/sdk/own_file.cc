#include "sdk/own_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "sdk/error.h"
#include "sdk/sha256.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr int64_t kSecond = 1'000'000'000;
// Clocks of file systems advance in steps, of 10 ms at most; a second change within a step leaves no trace.
constexpr int64_t kStep = 20'000'000;
constexpr int kLooks = 5;

[[noreturn]] void fail_system(const std::string& name) { fail(VMOE_BUNDLE_ERROR, name, ": ", system_error(errno)); }

void check_kind(const std::string& name, mode_t mode) {
  if (S_ISREG(mode)) return;
  const char* kind = S_ISLNK(mode) ? "link" : S_ISDIR(mode) ? "folder" : "device or pipe";
  fail(VMOE_BUNDLE_ERROR, name, " is a ", kind, ", and a bundle holds plain files only");
}

int64_t nanoseconds(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return nanoseconds(time);
}

}  // namespace

FileState::FileState(const struct stat& found)
    : device(found.st_dev),
      inode(found.st_ino),
      size(found.st_size),
      modified(nanoseconds(found.st_mtim)),
      changed(nanoseconds(found.st_ctim)) {}

bool FileState::operator==(const FileState& other) const {
  return device == other.device && inode == other.inode && size == other.size && modified == other.modified &&
         changed == other.changed;
}

FileState settled_state(const std::string& name, const std::function<int(struct stat*)>& look) {
  for (int i = 0; i < kLooks; ++i) {
    struct stat found{};
    if (look(&found) != 0) fail_system(name);
    const FileState state(found);
    const int64_t age = now() - state.changed;
    if (age < 0 || age >= kStep) return state;
    std::this_thread::sleep_for(std::chrono::nanoseconds(kStep - age));
  }
  throw ChangedError(name + " is being written to");
}

OwnFile::OwnFile(int folder, const std::string& name) : name_(name) {
  struct stat state{};
  if (fstatat(folder, name.c_str(), &state, AT_SYMLINK_NOFOLLOW) != 0) fail_system(name);
  check_kind(name, state.st_mode);
  // Whatever was put in its place meanwhile is neither followed nor waited for.
  descriptor_ = openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor_ < 0) fail_system(name);
  try {
    if (fstat(descriptor_, &state) != 0) fail_system(name);
    check_kind(name, state.st_mode);
    state_ = settled_state(name, [this](struct stat* found) { return fstat(descriptor_, found); });
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
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
  std::string bytes(static_cast<size_t>(std::min(limit, size())), '\0');
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
