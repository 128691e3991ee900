// Runs one-node models on the op library with random shapes, settings and values, valid ones and ones that contradict
// each other. Valid calls must fill outputs of the right shape; others must be refused with a message that names the
// op.
//
//   op_fuzz ONNXRUNTIME OP_LIBRARY FOLDER CALLS SEED
//
// FOLDER holds the models and plan.txt, which says of each:
//
//   model FILE OP EXPECTED           EXPECTED: runs, or never-loads, or never-runs
//   input NAME TYPE DIMS             those that are fed, in order; TYPE: float, fp16, bf16, i8, i32, i64, or scale:
//                                    float32 that int8 weights are multiplied with; DIMS of a single number: -
//   output NAME TYPE DIMS            "in_place" is the first one again, of the same node where it writes over its input
//   size LETTER N                    a dimension that constants fix
//   attribute NAME N
//   end
//
// Inputs and outputs lie in heap buffers of exactly their size, so that the address sanitizer sees what goes past an
// end. Prints "calls N refused N loads N refused N messages N", and exits with 0 if every call did what it should.
#define ORT_API_MANUAL_INIT
#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "random_calls.h"

namespace {

// The rows of VmoeRouteDispatch: buf[slot] is its token, bit for bit.
std::string_view check_rows(const Call& call, const std::vector<Tensor>& outputs) {
  const Tensor& x = call.inputs[1];
  const Tensor& buf = outputs[2];
  const size_t row = static_cast<size_t>(call.sizes.at('D')) * element_bytes(x.type);
  for (size_t pair = 0; pair < outputs[0].elements; ++pair) {
    const int32_t slot = outputs[0].as<int32_t>()[pair];
    const size_t token = pair / static_cast<size_t>(call.k);
    if (slot >= 0 &&
        std::memcmp(buf.as<char>() + static_cast<size_t>(slot) * row, x.as<char>() + token * row, row) != 0) {
      return "buf doesn't hold the token at its slot";
    }
  }
  return "";
}

// Slots and sources of VmoeChooseTokens lead to each other.
std::string_view check_choices(const Call& call, const std::vector<Tensor>& outputs) {
  const auto* slot = outputs[0].as<int32_t>();
  const auto* src = outputs[1].as<int32_t>();
  size_t taken = 0, filled = 0;
  for (size_t pair = 0; pair < outputs[0].elements; ++pair) {
    if (slot[pair] < 0) continue;
    ++taken;
    if (src[slot[pair]] != static_cast<int32_t>(pair / static_cast<size_t>(call.sizes.at('E')))) {
      return "src doesn't lead back from slot";
    }
  }
  for (size_t place = 0; place < outputs[1].elements; ++place) filled += src[place] < 0 ? 0 : 1;
  return taken == filled ? "" : "a place has a token that no slot leads to";
}

// An empty text if the outputs of a valid call can be what they should.
std::string check_outputs(const Model& model, const Call& call, const std::vector<Tensor>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& value = model.outputs[i];
    for (size_t at = 0; at < outputs[i].elements; ++at) {
      const std::string where = value.name + "[" + std::to_string(at) + "]";
      if (outputs[i].is_unwritten(at)) return where + " was not written";
      if (value.type != "i32" && call.finite && !std::isfinite(outputs[i].number_at(at))) {
        return where + " is not finite, but every input is";
      }
      if (value.type != "i32") continue;
      const int64_t limit = value.name == "src"            ? call.sizes.at('G') * call.sizes.at('S')
                            : value.name == "merged_token" ? call.sizes.at('U')
                            : value.name == "expert"       ? call.sizes.at('E')
                                                           : call.sizes.at('E') * call.sizes.at('M');
      const int32_t index = outputs[i].as<int32_t>()[at];
      if (index < -1 || index >= limit) return where + " is " + std::to_string(index);
    }
  }
  if (model.outputs.back().name == "in_place" &&
      std::memcmp(outputs.front().data.get(), outputs.back().data.get(), outputs.back().bytes()) != 0) {
    return "other bits in place";
  }
  if (model.op == "VmoeRouteDispatch") return std::string(check_rows(call, outputs));
  if (model.experts_choose()) return std::string(check_choices(call, outputs));
  if (model.op != "VmoeRoute" && model.op != "VmoeRouterBlock") return "";
  for (size_t pair = 0; pair < outputs[0].elements; ++pair) {
    const int32_t slot = outputs[0].as<int32_t>()[pair];
    const auto token = static_cast<int32_t>(static_cast<int64_t>(pair) / call.k);
    if (slot >= 0 && outputs[2].as<int32_t>()[slot] != token) return "src doesn't lead back from slot";
    if (outputs.size() < 4) continue;
    const int32_t expert = outputs[3].as<int32_t>()[pair];
    if (expert < 0) return "expert says nothing of a choice";
    if (slot >= 0 && slot / call.sizes.at('M') != expert) return "expert isn't the one whose place slot is";
  }
  return "";
}

class Fuzzer {
 public:
  Fuzzer(const OrtApi* api, const std::string& library, const std::string& folder, uint64_t seed) : random_(seed) {
    Ort::InitApi(api);
    env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "op_fuzz");
    memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    options_ = Ort::SessionOptions();
    options_.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    options_.AddConfigEntry("session.intra_op.allow_spinning", "0");
    options_.RegisterCustomOpsLibrary(library.c_str());
    for (Model& model : read_plan(folder)) {
      load(model);
      models_[model.op].push_back(std::move(model));
    }
  }

  // Every op as often as any other, however many models it has.
  void step() {
    std::vector<Model>& of_op = std::next(models_.begin(), static_cast<int64_t>(random_() % models_.size()))->second;
    Model& model = of_op[random_() % of_op.size()];
    // Now and then a session goes and comes back: weights are packed, shared and freed.
    if (chance(random_, 1)) load(model);
    if (model.session) run(model);
  }

  size_t calls = 0, refused = 0, loads = 0, refused_loads = 0;
  std::set<std::string> messages;

 private:
  Random random_;
  Ort::Env env_{nullptr};
  Ort::SessionOptions options_{nullptr};
  Ort::MemoryInfo memory_{nullptr};
  std::map<std::string, std::vector<Model>> models_;

  void load(Model& model) {
    if (chance(random_, 50)) model.session = Ort::Session{nullptr};
    options_.SetIntraOpNumThreads(chance(random_, 25) ? 2 : 1);
    std::string message;
    try {
      model.session = Ort::Session(env_, model.file.c_str(), options_);
    } catch (const Ort::Exception& error) {
      message = error.what();
    }
    ++loads;
    if (message.empty() != (model.expected != "never-loads")) {
      throw std::runtime_error(model.file + (message.empty() ? " was loaded" : " was not loaded: " + message));
    }
    if (!message.empty()) {
      ++refused_loads;
      check_message(model, message);
    }
  }

  void run(Model& model) {
    Call call = make_call(model, random_);
    std::vector<Tensor> results;
    std::vector<Ort::Value> inputs, outputs;
    std::vector<const char*> input_names, output_names;
    for (size_t i = 0; i < call.inputs.size(); ++i) {
      inputs.push_back(call.inputs[i].value(memory_));
      input_names.push_back(model.inputs[i].name.c_str());
    }
    call.sizes['K'] = model.routes() ? call.k : call.sizes['K'];
    if (model.routes()) call.sizes['M'] = call.sizes['G'] * call.capacity;
    for (const Value& value : model.outputs) {
      output_names.push_back(value.name.c_str());
      outputs.emplace_back(nullptr);
      if (!call.valid) continue;
      // How many places there are with a pool only the op tells.
      const bool is_told = value.name == "src" && call.pool == 1;
      results.emplace_back(value.type, is_told ? Shape{0} : call.shape(value.dims));
      results.back().mark_unwritten();
      if (!is_told) outputs.back() = results.back().value(memory_);
    }
    std::string message;
    try {
      model.session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(), output_names.data(),
                        outputs.data(), outputs.size());
    } catch (const Ort::Exception& error) {
      message = error.what();
    }
    ++calls;
    if (call.valid != message.empty()) {
      throw std::runtime_error(describe(model, call) +
                               (call.valid ? "refused: " + message : "ran in spite of " + call.fault));
    }
    if (call.valid) {
      if (call.pool == 1) take_sources(outputs[2], call, results[2]);
      const std::string wrong = check_outputs(model, call, results);
      if (!wrong.empty()) throw std::runtime_error(describe(model, call) + wrong);
    } else {
      ++refused;
      check_message(model, message);
    }
  }

  // The src that the op made, and the places that it has.
  static void take_sources(const Ort::Value& made, Call& call, Tensor& src) {
    const Shape shape = made.GetTensorTypeAndShapeInfo().GetShape();
    if (shape.size() != 2 || shape[0] != call.sizes['E'] || shape[1] < 1) throw std::runtime_error("src has no places");
    call.sizes['M'] = shape[1];
    src = Tensor(src.type, shape);
    std::memcpy(src.data.get(), made.GetTensorData<int32_t>(), src.bytes());
  }

  static std::string describe(const Model& model, const Call& call) {
    std::string text = model.file + " " + model.op;
    for (const auto& [letter, size] : call.sizes) text += std::string(" ") + letter + "=" + std::to_string(size);
    return text + " capacity=" + std::to_string(call.capacity) + " k=" + std::to_string(call.k) + ": ";
  }

  void check_message(const Model& model, const std::string& message) {
    if (message.find(model.op) == std::string::npos) throw std::runtime_error(model.op + " says only: " + message);
    // Without its numbers: how many different things were said.
    std::string kind = message;
    kind.erase(std::remove_if(kind.begin(), kind.end(), [](unsigned char c) { return std::isdigit(c) != 0; }),
               kind.end());
    messages.insert(kind);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  void* runtime = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);  // NOLINT(clang-analyzer-optin.taint.*): what the test gives
  if (runtime == nullptr) {
    std::printf("%s\n", dlerror());
    return 2;
  }
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))();
  const size_t calls = std::strtoull(argv[4], nullptr, 10);
  try {
    Fuzzer fuzzer(base->GetApi(VMOE_OLDEST_ONNXRUNTIME), argv[2], argv[3], std::strtoull(argv[5], nullptr, 10));
    while (fuzzer.calls < calls) fuzzer.step();
    std::printf("calls %zu refused %zu loads %zu refused %zu messages %zu\n", fuzzer.calls, fuzzer.refused,
                fuzzer.loads, fuzzer.refused_loads, fuzzer.messages.size());
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  return 0;
}
