// Opens a bundle folder and checks that its files are those that were exported.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sdk/manifest.h"
#include "sdk/watched_folder.h"

namespace vmoe::sdk {

// A graph whose bytes have been checked.
struct BundleGraph {
  std::string path;    // of the file, for messages
  std::string bytes;   // the content that was read and checked
  std::string folder;  // the folder of the weights file
};

class Bundle {
 public:
  // Reads the manifest of a NAME.vmoe folder. Checks the kind and size of every file, and that no graph reads data
  // outside the weights file. With `verify`, also compares the SHA-256 of every file except the weights.
  //
  // Throws:
  // - VMOE_BUNDLE_ERROR if the folder is not a bundle, or if a file is missing, was changed or refers to data outside
  //   the bundle;
  // - ChangedError if the bundle is replaced meanwhile.
  Bundle(const std::string& path, bool verify);

  const Manifest& manifest() const { return manifest_; }

  // Returns the graph kCanonicalGraph, kInlinedGraph or, if the bundle has it, kMergingGraph.
  BundleGraph graph(const std::string& name) const;

  // Returns a key that is equal for bundles opened on the same, unchanged files.
  std::string content_key() const;

  // Compares the SHA-256 of the weights. May run in parallel with a load. Throws VMOE_BUNDLE_ERROR if it differs.
  void verify_weights() const;

  // Throws ChangedError if the bundle has changed since it was opened. Call this when a load is done.
  void check_unchanged() const;

 private:
  void read(bool verify);
  void check_file(const std::string& name, const FileRecord& record, bool verify);
  void check_graph(const std::string& name, const std::string& bytes) const;

  std::string path_;
  std::unique_ptr<WatchedFolder> folder_;  // a pointer, because verify_weights is const but opens a file
  std::string manifest_text_;
  Manifest manifest_;
  std::map<std::string, std::string> graphs_;  // bytes of the graphs that this library runs
};

}  // namespace vmoe::sdk
