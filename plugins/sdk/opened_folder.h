// A folder that is opened once: what was read from it, and what a runtime maps from it, is one state of it or is
// noticed.
//
// A runtime opens files by their names. Between a look at a file and that moment the name may get another file, and get
// the first one back afterwards. So the folder is pinned by a descriptor, and every file's state is compared when all
// is done: a rename, a new link and a write each change the time of a file's last change, which nobody can set.
#ifndef VMOE_SDK_OPENED_FOLDER_H_
#define VMOE_SDK_OPENED_FOLDER_H_

#include <map>
#include <memory>
#include <string>

#include "sdk/own_file.h"

namespace vmoe::sdk {

class OpenedFolder {
 public:
  // Throws VMOE_BUNDLE_ERROR: there is no such folder. Throws ChangedError: it doesn't stop changing.
  explicit OpenedFolder(const std::string& path);
  ~OpenedFolder();
  OpenedFolder(const OpenedFolder&) = delete;
  OpenedFolder& operator=(const OpenedFolder&) = delete;

  // One plain file, as OwnFile opens it. Throws ChangedError: it isn't as it was when it was opened before.
  // Files that were opened before may be opened again from several threads.
  std::unique_ptr<OwnFile> open(const std::string& name);

  // A path of the folder for runtimes: through the descriptor, where /proc is mounted.
  std::string location() const;

  // Whether the folder, or a file that was opened in it, was written to, renamed or replaced since.
  bool has_changed() const;

  // States of the folder and of the files that were opened, with their names, as text.
  std::string states() const;

 private:
  std::string path_;
  int descriptor_;
  FileState state_{{}};
  std::map<std::string, FileState> states_;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_OPENED_FOLDER_H_
