// Does with the plugin library what TensorRT does, without TensorRT: tensorrt_plugin_check PLUGIN [FAKE_TENSORRT]. The
// messages of the plugin go to the logger of the fake.
//
// Reads a command a line and answers each with a line. FIELD is name:type:length:value, in the numbers of
// PluginFieldType; "null" for a name or a value is a null pointer. SETTINGS are capacity,k,bpr, or "-" for ops that do
// not route; SHAPE is 2,3,4.
//
//   creators                       name,version,namespace,kind,field:type:length... of each
//   create OP FIELD...             made FIELD...: what it serialises; the same after making it anew from that, or
//                                  refused MESSAGE
//   create OP !negative | !null    the same for a collection that says it has -1 fields, or 3 at no address
//   shapes OP SETTINGS SHAPE... / SHAPE...
//                                  output shapes at the first input shapes and, with the same expressions, at the
//                                  second; a constant size is written #2
//   types OP SETTINGS              every accepted choice of types for inputs and outputs, in the numbers of DataType
//   limits OP SETTINGS SHAPE...    workspace BYTES, or refused MESSAGE
//   counts OP SETTINGS             MESSAGE where the node has another number of inputs
//   lifecycle OP SETTINGS          the timing cache id, after the original and what it was made from are gone
//   enqueue OP SETTINGS SHAPE...   failed MESSAGE | what the context's error recorder got
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tensorrt_fake.h"

using namespace nvinfer1;

namespace {

[[noreturn]] void fail(const std::string& why) {
  std::cout << "wrong: " << why << std::endl;
  std::exit(1);
}

void require(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// An expression over sizes that may change.
class Expression final : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  Expression(bool constant, std::function<int64_t()> value) : constant_(constant), value_(std::move(value)) {
    mImpl = this;
  }
  ~Expression() noexcept override = default;
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return value_(); }
  bool isSizeTensor() const override { return false; }
  int64_t value() const { return value_(); }

 private:
  bool constant_;
  std::function<int64_t()> value_;
};

int64_t value_of(const IDimensionExpr& expression) { return static_cast<const Expression&>(expression).value(); }

class Builder final : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  ~Builder() noexcept override = default;
  const IDimensionExpr* constant(int64_t value) override {
    return make(true, [value] { return value; });
  }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    require(op == DimensionOperation::kPROD, "an operation other than a product");
    return make(false, [&first, &second] { return value_of(first) * value_of(second); });
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    fail("a size tensor");
  }
  const IDimensionExpr* make(bool constant, std::function<int64_t()> value) {
    expressions_.push_back(std::make_unique<Expression>(constant, std::move(value)));
    return expressions_.back().get();
  }

 private:
  std::deque<std::unique_ptr<Expression>> expressions_;
};

class Recorder final : public IErrorRecorder {
 public:
  int32_t getNbErrors() const noexcept override { return 0; }
  ErrorCode getErrorCode(int32_t) const noexcept override { return ErrorCode::kSUCCESS; }
  ErrorDesc getErrorDesc(int32_t) const noexcept override { return ""; }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override {}
  bool reportError(ErrorCode code, ErrorDesc text) noexcept override {
    recorded += std::to_string(static_cast<int>(code)) + " " + text;
    return true;
  }
  RefCount incRefCount() noexcept override { return 1; }
  RefCount decRefCount() noexcept override { return 1; }
  std::string recorded;
};

class Context final : public IPluginResourceContext {
 public:
  IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return &recorder; }
  mutable Recorder recorder;
};

std::function<std::string()> take_messages = [] { return std::string("(on stderr)"); };

// The messages since the last call, which are errors, on one line.
std::string read_messages() {
  std::string text = take_messages();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Fields as TensorRT hands them over; the texts and numbers live as long as this does.
class Fields {
 public:
  void add(const std::string& text) {
    const std::vector<std::string> parts = split(text, ':');
    require(parts.size() == 4, "a field of " + text);
    names_.push_back(parts[0]);
    values_.push_back(parts[3] == "null" ? 0 : static_cast<int32_t>(std::stol(parts[3])));
    fields_.emplace_back(parts[0] == "null" ? nullptr : names_.back().c_str(),
                         parts[3] == "null" ? nullptr : &values_.back(),
                         static_cast<PluginFieldType>(std::stoi(parts[1])), std::stoi(parts[2]));
  }
  const PluginFieldCollection* collection() {
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
    return &collection_;
  }

 private:
  std::deque<std::string> names_;
  std::deque<int32_t> values_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_;
};

std::string to_text(const PluginFieldCollection& fields) {
  std::string text;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    text += std::string(i > 0 ? " " : "") + field.name + ":" + std::to_string(static_cast<int>(field.type)) + ":" +
            std::to_string(field.length);
    if (field.data) text += ":" + std::to_string(*static_cast<const int32_t*>(field.data));
  }
  return text;
}

// A plugin with its three capabilities.
class Node {
 public:
  explicit Node(IPluginV3* plugin) : plugin_(plugin) {
    if (!plugin) return;
    core = static_cast<IPluginV3OneCore*>(get_capability(PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE"));
    build = static_cast<IPluginV3OneBuild*>(get_capability(PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD"));
    runtime = static_cast<IPluginV3OneRuntime*>(get_capability(PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME"));
    require(!plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(7)), "there is no capability 7");
    require(std::strcmp(plugin->getInterfaceInfo().kind, "PLUGIN") == 0, "its kind is PLUGIN");
  }
  explicit operator bool() const { return plugin_ != nullptr; }
  IPluginV3* operator->() { return plugin_.get(); }

  IPluginV3OneCore* core = nullptr;
  IPluginV3OneBuild* build = nullptr;
  IPluginV3OneRuntime* runtime = nullptr;

 private:
  IPluginCapability* get_capability(PluginCapabilityType type, const char* kind) {
    IPluginCapability* capability = plugin_->getCapabilityInterface(type);
    require(capability && std::strcmp(capability->getInterfaceInfo().kind, kind) == 0, std::string("it has a ") + kind);
    return capability;
  }
  std::unique_ptr<IPluginV3> plugin_;
};

class Plugins {
 public:
  Plugins(IPluginCreatorInterface* const* creators, int32_t count) : creators_(creators, creators + count) {}

  std::string answer(const std::string& line) {
    std::vector<std::string> words = split(line, ' ');
    const std::string command = words.at(0);
    if (command == "creators") return list_creators();
    IPluginCreatorV3One& op = find_op(words.at(1));
    words.erase(words.begin(), words.begin() + 2);
    if (command == "create") return create(op, words);
    Node node = with_settings(op, words.at(0));
    words.erase(words.begin());
    if (command == "shapes") return infer_shapes(node, words);
    if (command == "types") return list_types(node, count_inputs(op));
    if (command == "limits") return check_limits(node, words);
    if (command == "counts") return check_counts(node);
    if (command == "lifecycle") return check_lifecycle(op, std::move(node));
    if (command == "enqueue") return enqueue(std::move(node), words);
    fail("no command " + command);
  }

 private:
  std::string list_creators() {
    std::string text;
    for (IPluginCreatorInterface* creator : creators_) {
      auto* one = static_cast<IPluginCreatorV3One*>(creator);
      text += std::string(text.empty() ? "" : " | ") + one->getPluginName() + "," + one->getPluginVersion() + "," +
              one->getPluginNamespace() + "," + one->getInterfaceInfo().kind + "," + to_text(*one->getFieldNames());
    }
    return text;
  }

  IPluginCreatorV3One& find_op(const std::string& name) {
    for (IPluginCreatorInterface* creator : creators_) {
      auto* one = static_cast<IPluginCreatorV3One*>(creator);
      if (name == one->getPluginName()) return *one;
    }
    fail("no op " + name);
  }

  static int32_t count_inputs(IPluginCreatorV3One& op) {
    const std::string name = op.getPluginName();
    return name == "VmoeRoute" ? 1 : name == "VmoeCombine" ? 3 : 2;
  }

  static std::string create(IPluginCreatorV3One& op, const std::vector<std::string>& words) {
    Fields fields;
    PluginFieldCollection damaged;
    const PluginFieldCollection* collection = nullptr;
    if (!words.empty() && words[0][0] == '!') {
      damaged.nbFields = words[0] == "!negative" ? -1 : 3;
      collection = &damaged;
    } else {
      for (const std::string& word : words) fields.add(word);
      collection = words.empty() ? nullptr : fields.collection();
    }
    std::string text;
    for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
      std::string outcome = create_once(op, collection, phase);
      require(text.empty() || text == outcome, "both phases do the same");
      text = outcome;
    }
    return text;
  }

  static std::string create_once(IPluginCreatorV3One& op, const PluginFieldCollection* fields, TensorRTPhase phase) {
    Node made(op.createPlugin("node", fields, phase));
    const std::string messages = read_messages();
    if (!made) return "refused " + messages;
    require(messages.empty() || messages == "(on stderr)", "no message for a plugin that was made");
    const PluginFieldCollection* serialized = made.runtime->getFieldsToSerialize();
    const std::string text = to_text(*serialized);
    Node again(op.createPlugin("node", serialized, TensorRTPhase::kRUNTIME));
    require(static_cast<bool>(again), "a plugin is made from what it serialised");
    require(to_text(*again.runtime->getFieldsToSerialize()) == text, "the second plugin is as the first");
    require(std::strcmp(again.build->getTimingCacheID(), made.build->getTimingCacheID()) == 0, "and has its timing");
    return "made " + text;
  }

  static Node with_settings(IPluginCreatorV3One& op, const std::string& settings) {
    Fields fields;
    const char* names[] = {"capacity", "k", "bpr"};
    const std::vector<std::string> values = split(settings, ',');
    for (size_t i = 0; settings != "-" && i < 3; ++i) fields.add(std::string(names[i]) + ":5:1:" + values.at(i));
    Node node(op.createPlugin("node", fields.collection(), TensorRTPhase::kBUILD));
    require(static_cast<bool>(node), "made with settings " + settings + ": " + read_messages());
    return node;
  }

  static Dims read_shape(const std::string& text) {
    Dims dims{};
    for (const std::string& size : split(text, ',')) dims.d[dims.nbDims++] = std::stoll(size);
    return dims;
  }

  static std::vector<Dims> read_shapes(const std::vector<std::string>& words) {
    std::vector<Dims> shapes;
    for (const std::string& word : words) shapes.push_back(read_shape(word));
    return shapes;
  }

  static std::string infer_shapes(Node& node, std::vector<std::string> words) {
    const size_t count = words.size() / 2;
    require(words.at(count) == "/", "shapes on both sides of a slash");
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(count));
    const std::vector<Dims> shapes = read_shapes(words);
    size_t first = 0;  // of the shapes that the sizes are taken from
    Builder builder;
    std::vector<DimsExprs> inputs(count);
    for (size_t i = 0; i < count; ++i) {
      inputs[i].nbDims = shapes[i].nbDims;
      for (int32_t d = 0; d < shapes[i].nbDims; ++d) {
        inputs[i].d[d] = builder.make(false, [&shapes, &first, i, d] { return shapes[first + i].d[d]; });
      }
    }
    std::vector<DimsExprs> outputs(static_cast<size_t>(node.build->getNbOutputs()));
    const int32_t status = node.build->getOutputShapes(inputs.data(), static_cast<int32_t>(count), nullptr, 0,
                                                       outputs.data(), static_cast<int32_t>(outputs.size()), builder);
    if (status != 0) return "refused " + read_messages();
    std::string text;
    for (first = 0; first <= count; first += count) {
      if (first > 0) text += " /";
      for (const DimsExprs& output : outputs) {
        for (int32_t d = 0; d < output.nbDims; ++d) {
          text += std::string(d > 0          ? ","
                              : text.empty() ? ""
                                             : " ") +
                  (output.d[d]->isConstant() ? "#" : "") + std::to_string(value_of(*output.d[d]));
        }
      }
    }
    return text;
  }

  static std::string list_types(Node& node, int32_t input_count) {
    const int32_t output_count = node.build->getNbOutputs();
    const int32_t count = input_count + output_count;
    constexpr int32_t kTypes = 12;  // more than any version has
    std::vector<DynamicPluginTensorDesc> descs(static_cast<size_t>(count));
    const auto supported = [&](int32_t position) {
      return node.build->supportsFormatCombination(position, descs.data(), input_count, output_count);
    };
    std::string text;
    int64_t combinations = 1;
    for (int32_t i = 0; i < count; ++i) combinations *= kTypes;
    for (int64_t combination = 0; combination < combinations; ++combination) {
      std::vector<DataType> types;
      std::string name;
      int64_t rest = combination;
      for (int32_t i = 0; i < count; ++i, rest /= kTypes) {
        types.push_back(static_cast<DataType>(rest % kTypes));
        name += (i > 0 ? "," : "") + std::to_string(rest % kTypes);
        descs[static_cast<size_t>(i)].desc.type = types.back();
        descs[static_cast<size_t>(i)].desc.format = PluginFormat::kLINEAR;
      }
      bool taken = true;
      for (int32_t i = 0; i < count; ++i) taken = supported(i) && taken;
      if (!taken) continue;
      std::vector<DataType> outputs(static_cast<size_t>(output_count));
      const int32_t status = node.build->getOutputDataTypes(outputs.data(), output_count, types.data(), input_count);
      require(status == 0 && std::equal(outputs.begin(), outputs.end(), types.begin() + input_count),
              "output types " + name);
      text += (text.empty() ? "" : " ") + name;
      descs.back().desc.format = PluginFormat::kCHW32;
      require(!supported(count - 1), "the format is linear");
    }
    require(!supported(-1) && !supported(count), "there are no other positions");
    read_messages();
    return text;
  }

  static std::string check_limits(Node& node, const std::vector<std::string>& words) {
    const std::vector<Dims> shapes = read_shapes(words);
    std::vector<DynamicPluginTensorDesc> dynamic(shapes.size());
    std::vector<PluginTensorDesc> fixed(shapes.size());
    for (size_t i = 0; i < shapes.size(); ++i) {
      dynamic[i].max = fixed[i].dims = shapes[i];
      // What is not the maximum may be unknown, and must not be read.
      dynamic[i].desc.dims = dynamic[i].min = dynamic[i].opt = Dims{shapes[i].nbDims, {-1, -1, -1, -1, -1, -1, -1, -1}};
    }
    const auto in_count = static_cast<int32_t>(shapes.size());
    const int32_t out_count = node.build->getNbOutputs();
    const int32_t configured = node.build->configurePlugin(dynamic.data(), in_count, nullptr, out_count);
    const std::string messages = read_messages();
    const int32_t changed = node.runtime->onShapeChange(fixed.data(), in_count, nullptr, out_count);
    require(changed == configured && read_messages() == messages, "building and running have the same limits");
    const size_t workspace = node.build->getWorkspaceSize(dynamic.data(), in_count, nullptr, out_count);
    require(read_messages() == messages, "and so has the workspace");
    return configured == 0 ? "workspace " + std::to_string(workspace) : "refused " + messages;
  }

  static std::string check_counts(Node& node) {
    DynamicPluginTensorDesc descs[8];
    require(node.build->configurePlugin(descs, 4, descs, node.build->getNbOutputs()) != 0, "4 inputs are refused");
    const std::string messages = read_messages();
    require(!node.build->supportsFormatCombination(0, descs, 4, node.build->getNbOutputs()), "also for their types");
    require(node.build->getWorkspaceSize(descs, 4, descs, node.build->getNbOutputs()) == 0, "and their workspace");
    read_messages();
    return messages;
  }

  static std::string check_lifecycle(IPluginCreatorV3One& op, Node original) {
    Context context;
    auto clone = std::make_unique<Node>(original->clone());
    auto attached = std::make_unique<Node>(original.runtime->attachToContext(&context));
    const std::string fields = to_text(*original.runtime->getFieldsToSerialize());
    const std::string id = original.build->getTimingCacheID();
    {
      const Node gone = std::move(original);
    }
    for (Node* node : {clone.get(), attached.get()}) {
      require(static_cast<bool>(*node), "a copy is made");
      require(to_text(*node->runtime->getFieldsToSerialize()) == fields, "a copy has the original's fields");
      require(id == node->build->getTimingCacheID() && id == node->build->getMetadataString(), "a copy has its timing");
      require(std::strcmp(node->core->getPluginName(), op.getPluginName()) == 0, "a copy is of the same op");
    }
    Node second((*clone)->clone());
    clone.reset();
    attached.reset();
    require(to_text(*second.runtime->getFieldsToSerialize()) == fields, "a copy of a copy has the original's fields");
    return id;
  }

  static std::string enqueue(Node original, const std::vector<std::string>& words) {
    Context context;
    Node node(original.runtime->attachToContext(&context));
    {
      const Node gone = std::move(original);
    }
    const std::vector<Dims> shapes = read_shapes(words);
    const auto count = static_cast<int32_t>(shapes.size());
    std::vector<DynamicPluginTensorDesc> descs(shapes.size() + 3);
    std::vector<PluginTensorDesc> in;
    for (int32_t i = 0; i < count; ++i) {
      PluginTensorDesc& desc = descs[static_cast<size_t>(i)].desc;
      desc = {shapes[static_cast<size_t>(i)], DataType::kFLOAT, PluginFormat::kLINEAR, 1.0F};
      if (!node.build->supportsFormatCombination(i, descs.data(), count, node.build->getNbOutputs())) {
        desc.type = DataType::kINT32;
      }
      in.push_back(desc);
    }
    std::vector<PluginTensorDesc> out(3);
    // Aligned addresses that no device has: nothing may be read or written here.
    alignas(256) static char memory[256];
    const void* inputs[] = {memory, memory, memory};
    void* outputs[] = {memory, memory, memory};
    const int32_t status = node.runtime->enqueue(in.data(), out.data(), inputs, outputs, memory, nullptr);
    if (status == 0) return "done";
    return "failed " + read_messages() + " | " + context.recorder.recorded;
  }

  std::vector<IPluginCreatorInterface*> creators_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(dlerror());
  auto* get_creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
  auto* set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  require(get_creators && set_finder, "the library has its two functions");
  if (argc > 2) {
    void* fake = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!fake) fail(dlerror());
    auto* finder = reinterpret_cast<ILoggerFinder* (*)()>(dlsym(fake, "fakeLoggerFinder"));
    auto* messages = reinterpret_cast<const char* (*)()>(dlsym(fake, "fakeMessages"));
    require(finder && messages, "the fake has a logger");
    set_finder(finder());
    take_messages = [messages] { return std::string(messages()); };
  }
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get_creators(count);
  int32_t second_count = 0;
  require(get_creators(second_count) == creators && second_count == count, "the creators are always the same");
  {
    Plugins plugins(creators, count);
    for (std::string line; std::getline(std::cin, line);) std::cout << plugins.answer(line) << "\n";
  }
  set_finder(nullptr);
  return 0;
}
