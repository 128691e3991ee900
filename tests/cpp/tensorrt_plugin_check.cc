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
//   types OP SETTINGS              every accepted choice of types for inputs and outputs, in the numbers of DataType;
//   then
//                                  how many accepted it with another format than linear
//   limits OP SETTINGS SHAPE...    workspace BYTES, or refused MESSAGE
//   counts OP SETTINGS             MESSAGE where the node has another number of inputs
//   lifecycle OP SETTINGS          the timing cache id, after the original and what it was made from are gone
//   enqueue OP SETTINGS SHAPE...   failed MESSAGE | what the context's error recorder got
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tensorrt_fake.h"

using namespace nvinfer1;

namespace {

[[noreturn]] void Fail(const std::string& why) {
  std::cout << "wrong: " << why << std::endl;
  std::exit(1);
}

void Require(bool holds, const std::string& what) {
  if (!holds) Fail(what);
}

std::vector<std::string> Split(const std::string& text, char separator) {
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

int64_t ValueOf(const IDimensionExpr& expression) { return static_cast<const Expression&>(expression).value(); }

class Builder final : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  ~Builder() noexcept override = default;
  const IDimensionExpr* constant(int64_t value) override {
    return Make(true, [value] { return value; });
  }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    Require(op == DimensionOperation::kPROD, "an operation other than a product");
    return Make(false, [&first, &second] { return ValueOf(first) * ValueOf(second); });
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    Fail("a size tensor");
  }
  const IDimensionExpr* Make(bool constant, std::function<int64_t()> value) {
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
std::string Messages() {
  std::string text = take_messages();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Fields as TensorRT hands them over; the texts and numbers live as long as this does.
class Fields {
 public:
  void Add(const std::string& text) {
    const std::vector<std::string> parts = Split(text, ':');
    Require(parts.size() == 4, "a field of " + text);
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

std::string Text(const PluginFieldCollection& fields) {
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
    core = static_cast<IPluginV3OneCore*>(Capability(PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE"));
    build = static_cast<IPluginV3OneBuild*>(Capability(PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD"));
    runtime = static_cast<IPluginV3OneRuntime*>(Capability(PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME"));
    Require(!plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(7)), "there is no capability 7");
    Require(std::strcmp(plugin->getInterfaceInfo().kind, "PLUGIN") == 0, "its kind is PLUGIN");
  }
  explicit operator bool() const { return plugin_ != nullptr; }
  IPluginV3* operator->() { return plugin_.get(); }

  IPluginV3OneCore* core = nullptr;
  IPluginV3OneBuild* build = nullptr;
  IPluginV3OneRuntime* runtime = nullptr;

 private:
  IPluginCapability* Capability(PluginCapabilityType type, const char* kind) {
    IPluginCapability* capability = plugin_->getCapabilityInterface(type);
    Require(capability && std::strcmp(capability->getInterfaceInfo().kind, kind) == 0, std::string("it has a ") + kind);
    return capability;
  }
  std::unique_ptr<IPluginV3> plugin_;
};

class Plugins {
 public:
  Plugins(IPluginCreatorInterface* const* creators, int32_t count) : creators_(creators, creators + count) {}

  std::string Answer(const std::string& line) {
    std::vector<std::string> words = Split(line, ' ');
    const std::string command = words.at(0);
    if (command == "creators") return Creators();
    IPluginCreatorV3One& op = Op(words.at(1));
    words.erase(words.begin(), words.begin() + 2);
    if (command == "create") return Create(op, words);
    Node node = WithSettings(op, words.at(0));
    words.erase(words.begin());
    if (command == "shapes") return Shapes(node, words);
    if (command == "types") return Types(node, InputCount(op));
    if (command == "limits") return Limits(node, words);
    if (command == "counts") return Counts(node);
    if (command == "lifecycle") return Lifecycle(op, std::move(node));
    if (command == "enqueue") return Enqueue(std::move(node), words);
    Fail("no command " + command);
  }

 private:
  std::string Creators() {
    std::string text;
    for (IPluginCreatorInterface* creator : creators_) {
      auto* one = static_cast<IPluginCreatorV3One*>(creator);
      text += std::string(text.empty() ? "" : " | ") + one->getPluginName() + "," + one->getPluginVersion() + "," +
              one->getPluginNamespace() + "," + one->getInterfaceInfo().kind + "," + Text(*one->getFieldNames());
    }
    return text;
  }

  IPluginCreatorV3One& Op(const std::string& name) {
    for (IPluginCreatorInterface* creator : creators_) {
      auto* one = static_cast<IPluginCreatorV3One*>(creator);
      if (name == one->getPluginName()) return *one;
    }
    Fail("no op " + name);
  }

  static int32_t InputCount(IPluginCreatorV3One& op) {
    const std::string name = op.getPluginName();
    return name == "VmoeRoute" ? 1 : name == "VmoeCombine" ? 3 : 2;
  }

  static std::string Create(IPluginCreatorV3One& op, const std::vector<std::string>& words) {
    Fields fields;
    PluginFieldCollection damaged;
    const PluginFieldCollection* collection = nullptr;
    if (!words.empty() && words[0][0] == '!') {
      damaged.nbFields = words[0] == "!negative" ? -1 : 3;
      collection = &damaged;
    } else {
      for (const std::string& word : words) fields.Add(word);
      collection = words.empty() ? nullptr : fields.collection();
    }
    std::string text;
    for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
      std::string outcome = Outcome(op, collection, phase);
      Require(text.empty() || text == outcome, "both phases do the same");
      text = outcome;
    }
    return text;
  }

  static std::string Outcome(IPluginCreatorV3One& op, const PluginFieldCollection* fields, TensorRTPhase phase) {
    Node made(op.createPlugin("node", fields, phase));
    const std::string messages = Messages();
    if (!made) return "refused " + messages;
    Require(messages.empty() || messages == "(on stderr)", "no message for a plugin that was made");
    const PluginFieldCollection* serialized = made.runtime->getFieldsToSerialize();
    const std::string text = Text(*serialized);
    Node again(op.createPlugin("node", serialized, TensorRTPhase::kRUNTIME));
    Require(static_cast<bool>(again), "a plugin is made from what it serialised");
    Require(Text(*again.runtime->getFieldsToSerialize()) == text, "the second plugin is as the first");
    Require(std::strcmp(again.build->getTimingCacheID(), made.build->getTimingCacheID()) == 0, "and has its timing");
    return "made " + text;
  }

  static Node WithSettings(IPluginCreatorV3One& op, const std::string& settings) {
    Fields fields;
    const char* names[] = {"capacity", "k", "bpr"};
    const std::vector<std::string> values = Split(settings, ',');
    for (size_t i = 0; settings != "-" && i < 3; ++i) fields.Add(std::string(names[i]) + ":5:1:" + values.at(i));
    Node node(op.createPlugin("node", fields.collection(), TensorRTPhase::kBUILD));
    Require(static_cast<bool>(node), "made with settings " + settings + ": " + Messages());
    return node;
  }

  static Dims Shape(const std::string& text) {
    Dims dims{};
    for (const std::string& size : Split(text, ',')) dims.d[dims.nbDims++] = std::stoll(size);
    return dims;
  }

  static std::vector<Dims> ShapesOf(const std::vector<std::string>& words) {
    std::vector<Dims> shapes;
    for (const std::string& word : words) shapes.push_back(Shape(word));
    return shapes;
  }

  static std::string Shapes(Node& node, std::vector<std::string> words) {
    const size_t count = words.size() / 2;
    Require(words.at(count) == "/", "shapes on both sides of a slash");
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(count));
    const std::vector<Dims> shapes = ShapesOf(words);
    size_t first = 0;  // of the shapes that the sizes are taken from
    Builder builder;
    std::vector<DimsExprs> inputs(count);
    for (size_t i = 0; i < count; ++i) {
      inputs[i].nbDims = shapes[i].nbDims;
      for (int32_t d = 0; d < shapes[i].nbDims; ++d) {
        inputs[i].d[d] = builder.Make(false, [&shapes, &first, i, d] { return shapes[first + i].d[d]; });
      }
    }
    std::vector<DimsExprs> outputs(static_cast<size_t>(node.build->getNbOutputs()));
    const int32_t status = node.build->getOutputShapes(inputs.data(), static_cast<int32_t>(count), nullptr, 0,
                                                       outputs.data(), static_cast<int32_t>(outputs.size()), builder);
    if (status != 0) return "refused " + Messages();
    std::string text;
    for (first = 0; first <= count; first += count) {
      if (first > 0) text += " /";
      for (const DimsExprs& output : outputs) {
        for (int32_t d = 0; d < output.nbDims; ++d) {
          text += std::string(d > 0          ? ","
                              : text.empty() ? ""
                                             : " ") +
                  (output.d[d]->isConstant() ? "#" : "") + std::to_string(ValueOf(*output.d[d]));
        }
      }
    }
    return text;
  }

  static std::string Types(Node& node, int32_t input_count) {
    const int32_t output_count = node.build->getNbOutputs();
    const int32_t count = input_count + output_count;
    constexpr int32_t kTypes = 12;  // more than any version has
    std::vector<DynamicPluginTensorDesc> descs(static_cast<size_t>(count));
    const auto supported = [&](int32_t position) {
      return node.build->supportsFormatCombination(position, descs.data(), input_count, output_count);
    };
    std::set<std::string> inputs_taken;
    std::string text;
    int32_t other_formats = 0;
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
      text += (text.empty() ? "" : " ") + name;
      std::vector<DataType> outputs(static_cast<size_t>(output_count));
      Require(node.build->getOutputDataTypes(outputs.data(), output_count, types.data(), input_count) == 0,
              "types " + name);
      for (int32_t i = 0; i < output_count; ++i) {
        Require(outputs[static_cast<size_t>(i)] == types[static_cast<size_t>(input_count + i)], "output types " + name);
      }
      for (int32_t i = 0; i < count; ++i) {
        for (int32_t format = 1; format < 13; ++format) {
          descs[static_cast<size_t>(i)].desc.format = static_cast<PluginFormat>(format);
          other_formats += supported(i) ? 1 : 0;
        }
        descs[static_cast<size_t>(i)].desc.format = PluginFormat::kLINEAR;
      }
      inputs_taken.insert(std::string(reinterpret_cast<const char*>(types.data()),
                                      sizeof(DataType) * static_cast<size_t>(input_count)));
    }
    Require(!supported(-1) && !supported(count), "there are no other positions");
    Messages();
    // Every other choice of input types is refused.
    combinations = 1;
    for (int32_t i = 0; i < input_count; ++i) combinations *= kTypes;
    for (int64_t combination = 0; combination < combinations; ++combination) {
      std::vector<DataType> types;
      int64_t rest = combination;
      for (int32_t i = 0; i < input_count; ++i, rest /= kTypes) types.push_back(static_cast<DataType>(rest % kTypes));
      const std::string key(reinterpret_cast<const char*>(types.data()), sizeof(DataType) * types.size());
      std::vector<DataType> outputs(static_cast<size_t>(output_count));
      const int32_t status = node.build->getOutputDataTypes(outputs.data(), output_count, types.data(), input_count);
      Require((status == 0) == (inputs_taken.count(key) == 1), "both functions say the same of a choice of types");
    }
    Messages();
    return text + " other formats " + std::to_string(other_formats);
  }

  static std::string Limits(Node& node, const std::vector<std::string>& words) {
    const std::vector<Dims> shapes = ShapesOf(words);
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
    const std::string messages = Messages();
    const int32_t changed = node.runtime->onShapeChange(fixed.data(), in_count, nullptr, out_count);
    Require(changed == configured && Messages() == messages, "building and running have the same limits");
    const size_t workspace = node.build->getWorkspaceSize(dynamic.data(), in_count, nullptr, out_count);
    Require(Messages() == messages, "and so has the workspace");
    return configured == 0 ? "workspace " + std::to_string(workspace) : "refused " + messages;
  }

  static std::string Counts(Node& node) {
    DynamicPluginTensorDesc descs[8];
    Require(node.build->configurePlugin(descs, 4, descs, node.build->getNbOutputs()) != 0, "4 inputs are refused");
    const std::string messages = Messages();
    Require(!node.build->supportsFormatCombination(0, descs, 4, node.build->getNbOutputs()), "also for their types");
    Require(node.build->getWorkspaceSize(descs, 4, descs, node.build->getNbOutputs()) == 0, "and their workspace");
    Messages();
    return messages;
  }

  static std::string Lifecycle(IPluginCreatorV3One& op, Node original) {
    Context context;
    auto clone = std::make_unique<Node>(original->clone());
    auto attached = std::make_unique<Node>(original.runtime->attachToContext(&context));
    const std::string fields = Text(*original.runtime->getFieldsToSerialize());
    const std::string id = original.build->getTimingCacheID();
    {
      const Node gone = std::move(original);
    }
    for (Node* node : {clone.get(), attached.get()}) {
      Require(static_cast<bool>(*node), "a copy is made");
      Require(Text(*node->runtime->getFieldsToSerialize()) == fields, "a copy has the original's fields");
      Require(id == node->build->getTimingCacheID() && id == node->build->getMetadataString(), "a copy has its timing");
      Require(std::strcmp(node->core->getPluginName(), op.getPluginName()) == 0, "a copy is of the same op");
      Require(std::strcmp(node->core->getPluginNamespace(), "vmoe") == 0, "its namespace is vmoe");
      Require(std::strcmp(node->core->getPluginVersion(), "1") == 0, "its version is 1");
      Require(node->build->getNbTactics() == 0 && node->runtime->setTactic(0) == 0, "it has no tactics");
    }
    Node second((*clone)->clone());
    clone.reset();
    attached.reset();
    Require(Text(*second.runtime->getFieldsToSerialize()) == fields, "a copy of a copy has the original's fields");
    return id;
  }

  static std::string Enqueue(Node original, const std::vector<std::string>& words) {
    Context context;
    Node node(original.runtime->attachToContext(&context));
    {
      const Node gone = std::move(original);
    }
    const std::vector<Dims> shapes = ShapesOf(words);
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
    return "failed " + Messages() + " | " + context.recorder.recorded;
  }

  std::vector<IPluginCreatorInterface*> creators_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) Fail(dlerror());
  auto* get_creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
  auto* set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  Require(get_creators && set_finder, "the library has its two functions");
  if (argc > 2) {
    void* fake = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!fake) Fail(dlerror());
    auto* finder = reinterpret_cast<ILoggerFinder* (*)()>(dlsym(fake, "fakeLoggerFinder"));
    auto* messages = reinterpret_cast<const char* (*)()>(dlsym(fake, "fakeMessages"));
    Require(finder && messages, "the fake has a logger");
    set_finder(finder());
    take_messages = [messages] { return std::string(messages()); };
  }
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get_creators(count);
  int32_t second_count = 0;
  Require(get_creators(second_count) == creators && second_count == count, "the creators are always the same");
  {
    Plugins plugins(creators, count);
    for (std::string line; std::getline(std::cin, line);) std::cout << plugins.Answer(line) << "\n";
  }
  set_finder(nullptr);
  return 0;
}
