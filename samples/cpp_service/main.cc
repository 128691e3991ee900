// A service that runs a bundle in its own Ort::Session. It registers the op library, loads model.onnx, and passes the
// integers of a profile to each call.
//
//   service BUNDLE IMAGES [PROFILE...]
//
// IMAGES is a file with the raw uint8 pixels of one batch. The program prints one line for each profile: the name of
// the profile and the class of each image.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using Integers = std::vector<int64_t>;

// The values of a profile. The keys are the names of graph inputs. "capacity" has one number per MoE layer: the slots
// per expert and group. Every other setting is a single number, such as "k", the number of experts per token.
using Profile = std::map<std::string, Integers>;

struct Model {
  std::vector<int64_t> shape;  // of one image
  std::map<std::string, Profile> profiles;
};

// Reads the parts of the bundle's manifest that the service needs.
Model read_model(const std::string& bundle) {
  const auto manifest = nlohmann::json::parse(std::ifstream(bundle + "/manifest.json"));
  const auto& input = manifest.at("input");
  if (input.at("dtype") != "float32") throw std::runtime_error(bundle + " doesn't take float32 images");
  Model model{{input.at("height"), input.at("width"), input.at("channels")}, {}};
  for (const auto& profile : manifest.at("profiles")) {
    Profile& inputs = model.profiles[profile.at("name")];
    // A profile's integers and flags are graph inputs. Its name and its ratios are only information for people.
    for (const auto& [name, value] : profile.items()) {
      if (value.is_array()) inputs[name] = value.get<Integers>();
      if (value.is_boolean()) inputs[name] = {value.get<bool>() ? 1 : 0};
      if (value.is_number_integer()) inputs[name] = {value.get<int64_t>()};
    }
  }
  return model;
}

std::vector<float> read_images(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::vector<float> images;
  for (std::istreambuf_iterator<char> byte(stream), end; byte != end; ++byte) {
    images.push_back(static_cast<float>(static_cast<unsigned char>(*byte)) / 255.0F * 2.0F - 1.0F);
  }
  if (images.empty()) throw std::runtime_error(path + " contains no images");
  return images;
}

template <typename T>
Ort::Value tensor(std::vector<T>& values, const std::vector<int64_t>& shape) {
  static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), shape.size());
}

// Classifies the images in the batch `images`, float32[N,H,W,C], at one profile. Returns the class of each image.
std::vector<int64_t> classify(Ort::Session& session, const Model& model, std::vector<float>& images, Profile profile) {
  const int64_t count = static_cast<int64_t>(images.size()) / (model.shape[0] * model.shape[1] * model.shape[2]);
  std::vector<const char*> names = {"image"};
  std::vector<Ort::Value> inputs;
  inputs.push_back(tensor(images, {count, model.shape[0], model.shape[1], model.shape[2]}));
  for (auto& [name, integers] : profile) {
    names.push_back(name.c_str());
    inputs.push_back(tensor(integers, {static_cast<int64_t>(integers.size())}));
  }
  const char* output = "logits";
  const auto results = session.Run(Ort::RunOptions{}, names.data(), inputs.data(), inputs.size(), &output, 1);
  const float* logits = results[0].GetTensorData<float>();
  const int64_t classes = results[0].GetTensorTypeAndShapeInfo().GetShape()[1];
  std::vector<int64_t> best;
  for (int64_t i = 0; i < count; ++i) {
    best.push_back(std::max_element(logits + i * classes, logits + (i + 1) * classes) - (logits + i * classes));
  }
  return best;
}

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: service BUNDLE IMAGES [PROFILE...]");
  const std::string bundle = argv[1];
  const Model model = read_model(bundle);
  std::vector<float> images = read_images(argv[2]);

  const Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "service");
  Ort::SessionOptions options;
  // Registers kernels for the ops in the domain `vmoe`. Without these kernels, model.onnx runs on standard ops, which
  // are slower.
  options.RegisterCustomOpsLibrary(VMOE_OP_LIBRARY);
  Ort::Session session(env, (bundle + "/model.onnx").c_str(), options);

  std::vector<std::string> chosen(argv + 3, argv + argc);
  if (chosen.empty()) chosen.push_back(model.profiles.begin()->first);
  for (const auto& name : chosen) {
    const auto profile = model.profiles.find(name);
    if (profile == model.profiles.end()) throw std::runtime_error("there is no profile '" + name + "'");
    std::printf("%s", name.c_str());
    for (const int64_t best : classify(session, model, images, profile->second))
      std::printf(" %d", static_cast<int>(best));
    std::printf("\n");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "service: %s\n", error.what());
  return 1;
}
