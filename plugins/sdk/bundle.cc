#include "sdk/bundle.h"

#include <string_view>
#include <utility>
#include <vector>

#include "sdk/error.h"
#include "sdk/external_data.h"
#include "sdk/sha256.h"

namespace vmoe::sdk {

namespace {

void check_sha256(const std::string& name, const std::string& found, const FileRecord& record) {
  if (found != record.sha256) {
    fail(VMOE_BUNDLE_ERROR, name, " was changed after export (its SHA-256 differs)");
  }
}

std::string sha256_of(std::string_view bytes) {
  return sha256([&](char* buffer, size_t size) {
    const size_t count = bytes.copy(buffer, size);
    bytes.remove_prefix(count);
    return count;
  });
}

std::string sha256_of(FILE* file) {
  return sha256([&](char* buffer, size_t size) { return read_some(file, buffer, size); });
}

// Runs `check`. If `check` throws an Error, adds the path of the folder to the error's message.
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

Bundle::Bundle(const std::string& path, bool verify) : path_(path), folder_(std::make_unique<WatchedFolder>(path)) {
  try {
    in_folder(path, [&] { read(verify); });
  } catch (const Error&) {
    check_unchanged();  // if the bundle has changed, throws ChangedError, which explains the failure better
    throw;
  }
}

void Bundle::read(bool verify) {
  manifest_text_ = read_all(folder_->open(kManifestName).get(), kMaxManifestBytes + 1);
  if (manifest_text_.size() > kMaxManifestBytes) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is larger than ", kMaxManifestBytes >> 20, " MiB");
  }
  manifest_ = parse_manifest(manifest_text_);
  for (const auto& [name, record] : manifest_.files) check_file(name, record, verify);
  folder_->settle();
}

void Bundle::check_file(const std::string& name, const FileRecord& record, bool verify) {
  const OpenFile file = folder_->open(name);
  if (const int64_t size = folder_->size(name); size != record.size) {
    fail(VMOE_BUNDLE_ERROR, name, " has ", size, " bytes where the manifest says ", record.size);
  }
  if (is_graph(name)) {
    if (record.size > static_cast<int64_t>(kMaxGraphBytes)) {
      fail(VMOE_BUNDLE_ERROR, name, " is larger than ", kMaxGraphBytes >> 20, " MiB, which no graph of a bundle is");
    }
    std::string bytes = read_all(file.get(), kMaxGraphBytes);
    if (verify) check_sha256(name, sha256_of(bytes), record);
    check_graph(name, bytes);
    if (name == kCanonicalGraph || name == kInlinedGraph || name == kMergingGraph) graphs_[name] = std::move(bytes);
  } else if (verify && name != kWeightsName) {
    check_sha256(name, sha256_of(file.get()), record);
  }
}

BundleGraph Bundle::graph(const std::string& name) const {
  return {path_ + "/" + name, graphs_.at(name), folder_->path()};
}

std::string Bundle::content_key() const { return sha256_of(manifest_text_) + folder_->states(); }

void Bundle::verify_weights() const {
  in_folder(path_, [&] {
    check_sha256(kWeightsName, sha256_of(folder_->open(kWeightsName).get()), manifest_.files.at(kWeightsName));
  });
}

void Bundle::check_unchanged() const {
  if (!folder_->has_changed()) return;
  throw ChangedError(path_ + " was changed while it was loaded; load it again once nobody writes to it");
}

void Bundle::check_graph(const std::string& name, const std::string& bytes) const {
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
}

}  // namespace vmoe::sdk
