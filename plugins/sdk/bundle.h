// Opens a bundle folder, and checks that its files have not changed since the export.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sdk/manifest.h"
#include "sdk/watched_folder.h"

namespace vmoe::sdk {

// A graph whose bytes have been checked.
struct BundleGraph {
  std::string path;    // path of the graph's file, for messages
  std::string bytes;   // content of the file, read and checked
  std::string folder;  // folder that contains the weights file
};

class Bundle {
 public:
  // Reads the manifest of a NAME.vmoe folder. Checks the kind and size of every file. Also checks that no graph reads
  // data outside the weights file. If `verify` is true, computes the SHA-256 of every file except the weights, and
  // compares it with the manifest.
  //
  // Throws:
  // - VMOE_BUNDLE_ERROR if the folder is not a bundle, or if a file is missing, was changed or refers to data outside
  //   the bundle;
  // - ChangedError if the bundle is replaced while it is being read.
  Bundle(const std::string& path, bool verify);

  const Manifest& manifest() const { return manifest_; }

  // Returns the bundle's graph that is called `name`. `name` is kCanonicalGraph or kInlinedGraph. It may also be
  // kMergingGraph if the bundle has that graph.
  BundleGraph graph(const std::string& name) const;

  // Returns a key that identifies the bundle's files. Two Bundle objects have equal keys if they opened the same files
  // and no file changed between the two openings.
  std::string content_key() const;

  // Compares the SHA-256 of the weights with the one in the manifest. Throws VMOE_BUNDLE_ERROR if they differ. Another
  // thread may load the weights at the same time.
  void verify_weights() const;

  // Throws ChangedError if the bundle has changed since it was opened. Must be called at the end of a load.
  void check_unchanged() const;

 private:
  void read(bool verify);
  void check_file(const std::string& name, const FileRecord& record, bool verify);
  void check_graph(const std::string& name, const std::string& bytes) const;

  std::string path_;
  std::unique_ptr<WatchedFolder> folder_;  // a pointer, because verify_weights is const, but WatchedFolder::open is not
  std::string manifest_text_;
  Manifest manifest_;
  std::map<std::string, std::string> graphs_;  // bytes of the graphs that this library runs
};

}  // namespace vmoe::sdk
