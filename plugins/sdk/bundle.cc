#include "sdk/bundle.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <string_view>

#include "sdk/error.h"
#include "sdk/external_data.h"
#include "sdk/own_file.h"
#include "sdk/sha256.h"

namespace vmoe::sdk {

namespace {

constexpr int64_t kMaxManifestBytes = 16 << 20;
constexpr int64_t kMaxGraphBytes = 64 << 20;

void check_folder(const std::string& path) {
  if (path.empty()) fail(VMOE_BUNDLE_ERROR, "an empty path is not a bundle");
  struct stat state{};
  if (stat(path.c_str(), &state) != 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: ", absent ? "there is no such folder" : system_error(errno));
  }
  if (!S_ISDIR(state.st_mode)) fail(VMOE_BUNDLE_ERROR, path, " is not a bundle: there is no such folder");
}

void check_sha256(const std::string& name, const std::string& found, const FileRecord& record) {
  if (found != record.sha256) {
    fail(VMOE_BUNDLE_ERROR, name, " was changed after export (its SHA-256 differs)");
  }
}

bool is_graph(std::string_view name) {
  constexpr std::string_view kSuffix = ".onnx";
  return name.size() >= kSuffix.size() && name.substr(name.size() - kSuffix.size()) == kSuffix;
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
  } catch (const Error& error) {
    fail(error.code(), path, ": ", error.what());
  }
}

}  // namespace

Bundle Bundle::open(const std::string& path) {
  check_folder(path);
  Bundle bundle;
  bundle.path_ = path;
  in_folder(path, [&] {
    const OwnFile file(path, kManifestName);
    bundle.manifest_text_ = file.read(kMaxManifestBytes + 1);
    if (bundle.manifest_text_.size() > static_cast<size_t>(kMaxManifestBytes)) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, " is larger than ", kMaxManifestBytes >> 20, " MiB");
    }
    bundle.manifest_ = parse_manifest(bundle.manifest_text_);
  });
  return bundle;
}

std::string Bundle::content_key() const {
  std::error_code error;
  std::string key = std::filesystem::canonical(path_, error).string();
  key += '\n' + sha256_of(manifest_text_);
  for (const auto& [name, record] : manifest_.files) {
    struct stat state{};
    if (stat(file(name).c_str(), &state) != 0) {
      fail(VMOE_BUNDLE_ERROR, path_, ": ", name, ": ", system_error(errno));
    }
    for (const long long part :
         {static_cast<long long>(state.st_dev), static_cast<long long>(state.st_ino),
          static_cast<long long>(state.st_size), static_cast<long long>(state.st_mtim.tv_sec),
          static_cast<long long>(state.st_mtim.tv_nsec), static_cast<long long>(state.st_ctim.tv_sec),
          static_cast<long long>(state.st_ctim.tv_nsec)}) {
      key += ' ' + std::to_string(part);
    }
  }
  return key;
}

void Bundle::check_files(bool verify) const {
  in_folder(path_, [&] {
    for (const auto& [name, record] : manifest_.files) {
      const OwnFile file(path_, name);
      if (file.size() != record.size) {
        fail(VMOE_BUNDLE_ERROR, name, " has ", file.size(), " bytes where the manifest says ", record.size);
      }
      if (is_graph(name)) {
        if (file.size() > kMaxGraphBytes) {
          fail(VMOE_BUNDLE_ERROR, name, " is larger than ", kMaxGraphBytes >> 20,
               " MiB, which no graph of a bundle is");
        }
        const std::string bytes = file.read(kMaxGraphBytes);
        if (verify) check_sha256(name, sha256_of(bytes), record);
        check_graph(name, bytes);
      } else if (verify && name != kWeightsName) {
        check_sha256(name, file.sha256(), record);
      }
    }
  });
}

void Bundle::verify_weights() const {
  in_folder(path_, [&] {
    check_sha256(kWeightsName, OwnFile(path_, kWeightsName).sha256(), manifest_.files.at(kWeightsName));
  });
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
