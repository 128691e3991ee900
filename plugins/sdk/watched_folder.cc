#include "sdk/watched_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr int64_t kSecond = 1'000'000'000;
// In nanoseconds. The clocks of file systems advance in steps of at most 10 ms. If a file changes twice within one
// step, its timestamps do not show the second change.
constexpr int64_t kStep = 20'000'000;
constexpr size_t kChunkBytes = size_t{1} << 20;

FileState state_of(const struct stat& found) {
#if defined(__APPLE__)
  const timespec &modified = found.st_mtimespec, &changed = found.st_ctimespec;
#else
  const timespec &modified = found.st_mtim, &changed = found.st_ctim;
#endif
  const auto nanoseconds = [](const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; };
  return {static_cast<int64_t>(found.st_dev), static_cast<int64_t>(found.st_ino), found.st_size, nanoseconds(modified),
          nanoseconds(changed)};
}

[[noreturn]] void fail_system(const std::string& name) { fail(VMOE_BUNDLE_ERROR, name, ": ", system_error(errno)); }

}  // namespace

WatchedFolder::WatchedFolder(const std::string& path) {
  if (path.empty()) fail(VMOE_BUNDLE_ERROR, "an empty path is not a bundle");
  const std::unique_ptr<char, void (*)(void*)> resolved(realpath(path.c_str(), nullptr), std::free);
  struct stat found{};
  const bool exists = resolved != nullptr && stat(resolved.get(), &found) == 0;
  if (exists ? !S_ISDIR(found.st_mode) : errno == ENOTDIR) {
    fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: it is a file, and a bundle is a folder");
  }
  if (!exists && errno == ENOENT) {
    fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: there is no folder of that name");
  }
  if (!exists) fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: ", system_error(errno));
  path_ = resolved.get();
  states_["."] = state_of(found);
}

OpenFile WatchedFolder::open(const std::string& name) {
  const std::string path = path_ + "/" + name;
  struct stat found{};
  if (lstat(path.c_str(), &found) != 0) fail_system(name);
  if (!S_ISREG(found.st_mode)) {
    const char* kind = S_ISLNK(found.st_mode) ? "link" : S_ISDIR(found.st_mode) ? "folder" : "device or pipe";
    fail(VMOE_BUNDLE_ERROR, name, " is a ", kind, ", and a bundle holds plain files only");
  }
  const auto known = states_.find(name);
  const FileState state = known == states_.end() ? states_[name] = state_of(found) : known->second;
  // The file may have been replaced since lstat. If it is now a link or a pipe, this call does not follow the link or
  // wait for the pipe.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) fail_system(name);
  OpenFile file(fdopen(descriptor, "rb"), std::fclose);
  if (file == nullptr) ::close(descriptor);
  if (file == nullptr || fstat(descriptor, &found) != 0) fail_system(name);
  if (state_of(found) != state) throw ChangedError(name + " was changed");
  return file;
}

void WatchedFolder::settle() const {
  int64_t last = 0;
  for (const auto& [name, state] : states_) last = std::max(last, state[4]);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t age = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - last;
  if (0 <= age && age < kStep) std::this_thread::sleep_for(std::chrono::nanoseconds(kStep - age));
}

bool WatchedFolder::has_changed() const {
  return std::any_of(states_.begin(), states_.end(), [&](const auto& known) {
    struct stat found{};
    return lstat((path_ + "/" + known.first).c_str(), &found) != 0 || state_of(found) != known.second;
  });
}

std::string WatchedFolder::states() const {
  std::string text;
  for (const auto& [name, state] : states_) {
    text += '\n' + name;
    for (const int64_t part : state) text += ' ' + std::to_string(part);
  }
  return text;
}

size_t read_some(FILE* file, char* buffer, size_t size) {
  const size_t count = std::fread(buffer, 1, size, file);
  if (count < size && std::ferror(file) != 0) fail_system("a file of the bundle");
  return count;
}

std::string read_all(FILE* file, size_t limit) {
  std::string bytes;
  size_t count = 1;
  while (count > 0 && bytes.size() < limit) {
    const size_t before = bytes.size();
    bytes.resize(std::min(limit, before + kChunkBytes));
    count = read_some(file, bytes.data() + before, bytes.size() - before);
    bytes.resize(before + count);
  }
  return bytes;
}

}  // namespace vmoe::sdk
