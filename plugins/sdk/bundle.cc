#include "sdk/bundle.h"

#include <string_view>
#include <utility>

#include "sdk/error.h"
#include "sdk/external_data.h"
#include "sdk/graph_interface.h"
#include "sdk/sha256.h"
#include "sdk/weight_scales.h"

namespace vmoe::sdk {

namespace {

constexpr int64_t kMaxManifestBytes = 16 << 20;
constexpr int64_t kMaxGraphBytes = 64 << 20;

void check_sha256(const std::string& name, const std::string& found, const FileRecord& record) {
  if (found != record.sha256) {
    fail(VMOE_BUNDLE_ERROR, name, " was changed after export (its SHA-256 differs)");
  }
}

std::string sha256_of(const std::string& bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

// Runs `check` and puts the folder before what it refuses.
template <typename Check>
void in_folder(const std::string& path, const Check& check) {
  try {
    check();
  } catch (const ChangedError& error) {
    throw ChangedError(path + ": " + error.what());
  } catch (const Error& error) {
    fail(error.code(), path, ": ", error.what());
  }
}

}  // namespace

Bundle Bundle::open(const std::string& path, bool verify) {
  Bundle bundle;
  bundle.path_ = path;
  bundle.folder_ = std::make_unique<OpenedFolder>(path);
  try {
    in_folder(path, [&] { bundle.read(verify); });
  } catch (const Error&) {
    bundle.check_unchanged();  // the better explanation
    throw;
  }
  return bundle;
}

void Bundle::read(bool verify) {
  manifest_text_ = folder_->open(kManifestName)->read(kMaxManifestBytes + 1);
  if (manifest_text_.size() > static_cast<size_t>(kMaxManifestBytes)) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is larger than ", kMaxManifestBytes >> 20, " MiB");
  }
  manifest_ = parse_manifest(manifest_text_);
  for (const auto& [name, record] : manifest_.files) check_file(name, record, verify);
  check_scales(*folder_->open(kWeightsName), references_);
}

void Bundle::check_file(const std::string& name, const FileRecord& record, bool verify) {
  const auto file = folder_->open(name);
  if (file->size() != record.size) {
    fail(VMOE_BUNDLE_ERROR, name, " has ", file->size(), " bytes where the manifest says ", record.size);
  }
  if (is_graph(name)) {
    if (file->size() > kMaxGraphBytes) {
      fail(VMOE_BUNDLE_ERROR, name, " is larger than ", kMaxGraphBytes >> 20, " MiB, which no graph of a bundle is");
    }
    std::string bytes = file->read(kMaxGraphBytes);
    if (verify) check_sha256(name, sha256_of(bytes), record);
    check_graph(name, bytes);
    if (name == kCanonicalGraph || name == kInlinedGraph) graphs_[name] = std::move(bytes);
  } else if (verify && name != kWeightsName) {
    check_sha256(name, file->sha256(), record);
  }
}

BundleGraph Bundle::graph(const std::string& name) const {
  return {path_ + "/" + name, graphs_.at(name), folder_->location()};
}

std::string Bundle::content_key() const { return sha256_of(manifest_text_) + folder_->states(); }

void Bundle::verify_weights() const {
  in_folder(path_, [&] {
    check_sha256(kWeightsName, folder_->open(kWeightsName)->sha256(), manifest_.files.at(kWeightsName));
  });
}

void Bundle::check_unchanged() const {
  if (!folder_->has_changed()) return;
  throw ChangedError(path_ + " was changed while it was loaded; load it again once nobody writes to it");
}

void Bundle::check_graph(const std::string& name, const std::string& bytes) {
  const int64_t weights = manifest_.files.at(kWeightsName).size;
  std::vector<ExternalData> references;
  try {
    references = external_data(bytes);
  } catch (const Error& error) {
    fail(error.code(), name, " is ", error.what());
  }
  for (const ExternalData& reference : references) {
    if (reference.location != kWeightsName) {
      fail(VMOE_BUNDLE_ERROR, name, " reads ", in_quotes(reference.location), ", and a graph may read ", kWeightsName,
           " only");
    }
    if (reference.length > weights - reference.offset) {
      fail(VMOE_BUNDLE_ERROR, name, " reads past the end of ", kWeightsName);
    }
  }
  sdk::check_graph(name, bytes, manifest_);
  references_.insert(references_.end(), references.begin(), references.end());
}

}  // namespace vmoe::sdk
