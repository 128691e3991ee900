// Uses the plugin library in the same way as TensorRT does, but without TensorRT:
// tensorrt_plugin_check PLUGIN FAKE_TENSORRT.
//
// Reads commands from stdin, one per line, and prints one line for each. A command is COMMAND OP FIELD... SHAPE... A
// FIELD is name:type:length:value, where type is the number of a PluginFieldType. A SHAPE is written like 2,3,4. If the
// creator can't make a plugin from the fields, the printed line is: refused MESSAGE
//
//   fields    prints the fields of the op's creator
//   create    makes a plugin from its fields, recreates it from the fields that it serializes, and clones it;
//             prints the fields that the clone serializes, and its timing cache id
//   shapes    prints output shapes for input shapes; #2 is a size of 2 that is known when the network is built
//   types     prints whether the plugin accepts types of inputs and outputs, written as numbers in a single SHAPE
//   limits    prints "workspace BYTES" or "refused MESSAGE" for input shapes
//   enqueue   runs the plugin on addresses that are not device memory, and prints the error message
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tensorrt_fake.h"

using namespace nvinfer1;

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::cout << "wrong: " << what << std::endl;
  std::exit(1);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

class Expression final : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  Expression(bool constant, int64_t value) : constant_(constant), value_(value) { mImpl = this; }
  ~Expression() noexcept override = default;
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  bool constant_;
  int64_t value_;
};

class Builder final : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  ~Builder() noexcept override = default;
  const IDimensionExpr* constant(int64_t value) override { return make(true, value); }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) override {
    require(op == DimensionOperation::kPROD, "an operation other than a product");
    return make(false, a.getConstantValue() * b.getConstantValue());
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }
  const IDimensionExpr* make(bool constant, int64_t value) {
    return expressions_.emplace_back(std::make_unique<Expression>(constant, value)).get();
  }

 private:
  std::deque<std::unique_ptr<Expression>> expressions_;
};

// Plugin fields in the form in which TensorRT passes them. The object owns the memory for their names and values.
class Fields {
 public:
  void add(const std::string& text) {
    const std::vector<std::string> parts = split(text, ':');
    names_.push_back(parts.at(0));
    values_.push_back(static_cast<int32_t>(std::stol(parts.at(3))));
    fields_.emplace_back(names_.back().c_str(), &values_.back(), static_cast<PluginFieldType>(std::stoi(parts[1])),
                         std::stoi(parts[2]));
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
    text += (i > 0 ? " " : "") + std::string(field.name) + ":" + std::to_string(static_cast<int>(field.type)) + ":" +
            std::to_string(field.length);
    if (field.data) text += ":" + std::to_string(*static_cast<const int32_t*>(field.data));
  }
  return text;
}

// A function that returns the plugin's messages since the last call, on one line.
std::string (*read_messages)() = nullptr;

// A plugin, the interfaces that TensorRT uses to build and to run it, and the commands that test them.
class Node {
 public:
  Node(IPluginV3* plugin, std::vector<Dims> shapes) : plugin_(plugin), shapes_(std::move(shapes)) {
    if (!plugin) return;
    build_ = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    runtime_ = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    out_count_ = build_->getNbOutputs();
  }
  explicit operator bool() const { return plugin_ != nullptr; }

  std::string serialize(IPluginCreatorV3One& op) {
    const Node again(op.createPlugin("node", runtime_->getFieldsToSerialize(), TensorRTPhase::kRUNTIME), {});
    const Node copy(again.plugin_->clone(), {});
    return to_text(*copy.runtime_->getFieldsToSerialize()) + " " + copy.build_->getTimingCacheID();
  }

  std::string infer_shapes() {
    Builder builder;
    std::vector<DimsExprs> inputs(shapes_.size());
    std::vector<DimsExprs> outputs(static_cast<size_t>(out_count_));
    for (size_t i = 0; i < shapes_.size(); ++i) {
      inputs[i].nbDims = shapes_[i].nbDims;
      for (int32_t d = 0; d < shapes_[i].nbDims; ++d) inputs[i].d[d] = builder.make(false, shapes_[i].d[d]);
    }
    if (build_->getOutputShapes(inputs.data(), in_count(), nullptr, 0, outputs.data(), out_count_, builder) != 0) {
      return "refused " + read_messages();
    }
    std::string text;
    for (const DimsExprs& output : outputs) {
      text += text.empty() ? "" : " ";
      for (int32_t d = 0; d < output.nbDims; ++d) {
        const IDimensionExpr& size = *output.d[d];
        text +=
            (d > 0 ? "," : "") + std::string(size.isConstant() ? "#" : "") + std::to_string(size.getConstantValue());
      }
    }
    return text;
  }

  std::string takes_types() {
    const Dims& wanted = shapes_.at(0);
    const int32_t inputs = wanted.nbDims - out_count_;
    std::vector<DynamicPluginTensorDesc> descs(static_cast<size_t>(wanted.nbDims));
    std::vector<DataType> types;
    for (int32_t i = 0; i < wanted.nbDims; ++i) types.push_back(static_cast<DataType>(wanted.d[i]));
    const auto taken = [&](PluginFormat format) {
      bool all = true;
      for (int32_t i = 0; i < wanted.nbDims; ++i) {
        descs[static_cast<size_t>(i)].desc.type = types[static_cast<size_t>(i)];
        descs[static_cast<size_t>(i)].desc.format = format;
        all = build_->supportsFormatCombination(i, descs.data(), inputs, out_count_) && all;
      }
      return all;
    };
    require(!taken(PluginFormat::kCHW32), "the format is linear");
    if (!taken(PluginFormat::kLINEAR)) return "no";
    std::vector<DataType> outputs(static_cast<size_t>(out_count_));
    build_->getOutputDataTypes(outputs.data(), out_count_, types.data(), inputs);
    require(std::equal(outputs.begin(), outputs.end(), types.begin() + inputs), "output types");
    return "yes";
  }

  std::string check_limits() {
    std::vector<DynamicPluginTensorDesc> dynamic(shapes_.size());
    std::vector<PluginTensorDesc> fixed(shapes_.size());
    for (size_t i = 0; i < shapes_.size(); ++i) {
      dynamic[i].max = fixed[i].dims = shapes_[i];
      // Only the maximum sizes are certain to be known. The other sizes are set to -1, because the plugin must not
      // read them.
      dynamic[i].desc.dims = dynamic[i].min = dynamic[i].opt =
          Dims{shapes_[i].nbDims, {-1, -1, -1, -1, -1, -1, -1, -1}};
    }
    const int32_t configured = build_->configurePlugin(dynamic.data(), in_count(), nullptr, out_count_);
    const std::string messages = read_messages();
    const int32_t changed = runtime_->onShapeChange(fixed.data(), in_count(), nullptr, out_count_);
    require(changed == configured && read_messages() == messages, "building and running have the same limits");
    if (configured != 0) return "refused " + messages;
    return "workspace " + std::to_string(build_->getWorkspaceSize(dynamic.data(), in_count(), nullptr, out_count_));
  }

  std::string enqueue() {
    std::vector<DynamicPluginTensorDesc> descs(shapes_.size() + 3);
    std::vector<PluginTensorDesc> in;
    for (int32_t i = 0; i < in_count(); ++i) {
      PluginTensorDesc& desc = descs[static_cast<size_t>(i)].desc;
      desc = {shapes_[static_cast<size_t>(i)], DataType::kFLOAT, PluginFormat::kLINEAR, 1.0F};
      if (!build_->supportsFormatCombination(i, descs.data(), in_count(), out_count_)) desc.type = DataType::kINT32;
      in.push_back(desc);
    }
    alignas(256) static char memory[256];
    const void* inputs[] = {memory, memory, memory};
    void* outputs[] = {memory, memory, memory};
    const std::unique_ptr<IPluginV3> attached(runtime_->attachToContext(nullptr));
    auto* runtime = static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const int32_t status = runtime->enqueue(in.data(), nullptr, inputs, outputs, memory, nullptr);
    return status == 0 ? "done" : "failed " + read_messages();
  }

 private:
  int32_t in_count() const { return static_cast<int32_t>(shapes_.size()); }

  std::unique_ptr<IPluginV3> plugin_;
  std::vector<Dims> shapes_;
  IPluginV3OneBuild* build_ = nullptr;
  IPluginV3OneRuntime* runtime_ = nullptr;
  int32_t out_count_ = 0;
};

std::string answer(IPluginCreatorV3One& op, const std::vector<std::string>& words) {
  if (words[0] == "fields") return to_text(*op.getFieldNames());
  Fields fields;
  std::vector<Dims> shapes;
  for (auto word = words.begin() + 2; word != words.end(); ++word) {
    if (word->find(':') != std::string::npos) {
      fields.add(*word);
    } else {
      shapes.emplace_back();
      for (const std::string& size : split(*word, ',')) shapes.back().d[shapes.back().nbDims++] = std::stoll(size);
    }
  }
  Node node(op.createPlugin("node", fields.collection(), TensorRTPhase::kBUILD), std::move(shapes));
  if (!node) return "refused " + read_messages();
  if (words[0] == "create") return node.serialize(op);
  if (words[0] == "shapes") return node.infer_shapes();
  if (words[0] == "types") return node.takes_types();
  return words[0] == "limits" ? node.check_limits() : node.enqueue();
}

void* symbol(const char* library, const char* name) {
  void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  require(opened != nullptr, opened ? "" : dlerror());
  return dlsym(opened, name);
}

}  // namespace

int main(int, char** argv) {
  const auto get_creators =
      reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(symbol(argv[1], "getCreators"));
  const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(symbol(argv[1], "setLoggerFinder"));
  static const auto fake_messages = reinterpret_cast<const char* (*)()>(symbol(argv[2], "fakeMessages"));
  read_messages = [] {
    std::string text = fake_messages();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  };
  set_finder(reinterpret_cast<ILoggerFinder* (*)()>(symbol(argv[2], "fakeLoggerFinder"))());
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get_creators(count);
  for (std::string line; std::getline(std::cin, line);) {
    const std::vector<std::string> words = split(line, ' ');
    for (int32_t i = 0; i < count; ++i) {
      auto& op = static_cast<IPluginCreatorV3One&>(*creators[i]);
      if (words.at(1) == op.getPluginName()) std::cout << answer(op, words) << "\n";
    }
  }
  set_finder(nullptr);
  return 0;
}
