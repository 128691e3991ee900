// Opens a bundle folder and proves that every file in it is the one that was exported.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sdk/manifest.h"
#include "sdk/watched_folder.h"

namespace vmoe::sdk {

// A graph whose bytes were checked.
struct BundleGraph {
  std::string path;    // of the file, for people
  std::string bytes;   // what was read from it, and checked
  std::string folder;  // where a runtime finds the weights, under their name
};

class Bundle {
 public:
  // Reads the manifest of a NAME.vmoe folder. Checks kind and size of every file and that no graph reads outside the
  // weights, and with `verify` the SHA-256 of every file but the weights.
  //
  // Throws VMOE_BUNDLE_ERROR: the folder is no bundle, or a file is missing, was changed, or reaches outside the
  // bundle. Throws ChangedError: it was replaced meanwhile.
  Bundle(const std::string& path, bool verify);

  const Manifest& manifest() const { return manifest_; }

  // The graph kCanonicalGraph, kInlinedGraph or, where there is one, kMergingGraph.
  BundleGraph graph(const std::string& name) const;

  // Equal for bundles that were opened on the same, unchanged files.
  std::string content_key() const;

  // Compares the SHA-256 of the weights; may run beside a load. Throws VMOE_BUNDLE_ERROR: they were changed.
  void verify_weights() const;

  // To be called when a load is done. Throws ChangedError: the bundle isn't as it was opened.
  void check_unchanged() const;

 private:
  void read(bool verify);
  void check_file(const std::string& name, const FileRecord& record, bool verify);
  void check_graph(const std::string& name, const std::string& bytes) const;

  std::string path_;
  std::unique_ptr<WatchedFolder> folder_;  // verify_weights opens a file in it
  std::string manifest_text_;
  Manifest manifest_;
  std::map<std::string, std::string> graphs_;  // bytes of those for this library
};

}  // namespace vmoe::sdk
