// Opens a bundle folder and proves that every file in it is the one that was exported.
#ifndef VMOE_SDK_BUNDLE_H_
#define VMOE_SDK_BUNDLE_H_

#include <string>

#include "sdk/manifest.h"

namespace vmoe::sdk {

class Bundle {
 public:
  // Reads the manifest of a NAME.vmoe folder. Throws VMOE_BUNDLE_ERROR: the folder is no bundle.
  static Bundle open(const std::string& path);

  const Manifest& manifest() const { return manifest_; }

  // The path of one file of the bundle.
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  // Equal for the same, unchanged files: the real folder, the manifest's text and the state of each file.
  std::string content_key() const;

  // Checks kind and size of every file and that no graph reads outside the weights, and with `verify` the SHA-256 of
  // every file but the weights. Throws VMOE_BUNDLE_ERROR: a file is missing, was changed, or reaches outside the
  // bundle.
  void check_files(bool verify) const;

  // Compares the SHA-256 of the weights; may run beside a load. Throws VMOE_BUNDLE_ERROR: they were changed.
  void verify_weights() const;

 private:
  void check_graph(const std::string& name, const std::string& bytes) const;

  std::string path_;
  std::string manifest_text_;
  Manifest manifest_;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_BUNDLE_H_
