#include "sdk/opened_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

int open_folder(const std::string& path) {
  if (path.empty()) fail(VMOE_BUNDLE_ERROR, "an empty path is not a bundle");
  const int descriptor = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: ", absent ? "there is no such folder" : system_error(errno));
  }
  return descriptor;
}

}  // namespace

OpenedFolder::OpenedFolder(const std::string& path) : path_(path), descriptor_(open_folder(path)) {
  try {
    state_ = settled_state(path, [&](struct stat* found) { return stat(path.c_str(), found); });
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

OpenedFolder::~OpenedFolder() { ::close(descriptor_); }

std::unique_ptr<OwnFile> OpenedFolder::open(const std::string& name) {
  auto file = std::make_unique<OwnFile>(descriptor_, name);
  const auto known = states_.find(name);
  if (known == states_.end()) {
    states_.emplace(name, file->state());
  } else if (!(known->second == file->state())) {
    throw ChangedError(name + " was changed");
  }
  return file;
}

std::string OpenedFolder::location() const {
  const std::string pinned = "/proc/self/fd/" + std::to_string(descriptor_);
  return access(pinned.c_str(), F_OK) == 0 ? pinned : path_;
}

bool OpenedFolder::has_changed() const {
  struct stat found{};
  if (stat(path_.c_str(), &found) != 0 || !(FileState(found) == state_)) return true;
  return std::any_of(states_.begin(), states_.end(), [&](const auto& known) {
    struct stat state{};
    const int code = fstatat(descriptor_, known.first.c_str(), &state, AT_SYMLINK_NOFOLLOW);
    return code != 0 || !(FileState(state) == known.second);
  });
}

std::string OpenedFolder::states() const {
  std::string text;
  const auto add = [&](const std::string& name, const FileState& state) {
    text += '\n' + name + ' ' + std::to_string(state.device) + ' ' + std::to_string(state.inode);
    for (const int64_t part : {state.size, state.modified, state.changed}) text += ' ' + std::to_string(part);
  };
  add(".", state_);
  for (const auto& [name, state] : states_) add(name, state);
  return text;
}

}  // namespace vmoe::sdk
