// Prints how a version of TensorRT's headers lays out what it and the plugin exchange: lines that must be the same for
// all versions, and, behind "layout", the indexes that interface_layout.h holds for this major.
#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tensorrt/interface_layout.h"

using namespace nvinfer1;

namespace {

// A pointer to a virtual member function is 1 + its offset in the table (x86-64; on 64-bit ARM the 1 is kept
// elsewhere).
template <class Function>
long index_of(Function function) {
  std::ptrdiff_t words[2] = {};
  static_assert(sizeof(function) == sizeof(words));
  std::memcpy(words, &function, sizeof(words));
#ifdef __aarch64__
  return words[0] / static_cast<long>(sizeof(void*));
#else
  return (words[0] - 1) / static_cast<long>(sizeof(void*));
#endif
}

#define VIRTUAL(type, function) std::printf(#type "::" #function " %ld\n", index_of(&type::function))
#define SIZE(type) std::printf("sizeof " #type " %zu\n", sizeof(type))
#define FIELD(type, field) std::printf(#type "." #field " %zu\n", offsetof(type, field))
#define VALUE(value) std::printf(#value " %d\n", static_cast<int>(value))

// Where each base lies in the plugin: TensorRT's pointers to them come from the plugin itself, so only their tables
// matter.
void print_what_the_plugin_is() {
  VIRTUAL(IVersionedInterface, getAPILanguage);
  VIRTUAL(IVersionedInterface, getInterfaceInfo);
  VIRTUAL(IPluginV3, getInterfaceInfo);
  VIRTUAL(IPluginV3, getCapabilityInterface);
  VIRTUAL(IPluginV3, clone);
  VIRTUAL(IPluginV3OneCore, getPluginName);
  VIRTUAL(IPluginV3OneCore, getPluginVersion);
  VIRTUAL(IPluginV3OneCore, getPluginNamespace);
  VIRTUAL(IPluginV3OneBuild, configurePlugin);
  VIRTUAL(IPluginV3OneBuild, getOutputDataTypes);
  VIRTUAL(IPluginV3OneBuild, getOutputShapes);
  VIRTUAL(IPluginV3OneBuild, supportsFormatCombination);
  VIRTUAL(IPluginV3OneBuild, getNbOutputs);
  VIRTUAL(IPluginV3OneBuild, getWorkspaceSize);
  VIRTUAL(IPluginV3OneBuild, getValidTactics);
  VIRTUAL(IPluginV3OneBuild, getNbTactics);
  VIRTUAL(IPluginV3OneBuild, getTimingCacheID);
  VIRTUAL(IPluginV3OneBuild, getFormatCombinationLimit);
  VIRTUAL(IPluginV3OneBuild, getMetadataString);
  VIRTUAL(IPluginV3OneRuntime, setTactic);
  VIRTUAL(IPluginV3OneRuntime, onShapeChange);
  VIRTUAL(IPluginV3OneRuntime, enqueue);
  VIRTUAL(IPluginV3OneRuntime, attachToContext);
  VIRTUAL(IPluginV3OneRuntime, getFieldsToSerialize);
  VIRTUAL(IPluginCreatorV3One, createPlugin);
  VIRTUAL(IPluginCreatorV3One, getFieldNames);
  VIRTUAL(IPluginCreatorV3One, getPluginName);
  VIRTUAL(IPluginCreatorV3One, getPluginVersion);
  VIRTUAL(IPluginCreatorV3One, getPluginNamespace);
}

void print_what_the_plugin_calls() {
  VIRTUAL(apiv::VExprBuilder, constant);
  VIRTUAL(apiv::VExprBuilder, operation);
  VIRTUAL(apiv::VDimensionExpr, isConstant);
  VIRTUAL(apiv::VDimensionExpr, getConstantValue);
  SIZE(IDimensionExpr);  // a table and one pointer
  SIZE(IExprBuilder);
  VIRTUAL(IPluginResourceContext, getErrorRecorder);
  VIRTUAL(IErrorRecorder, reportError);
}

void print_what_is_passed() {
  SIZE(Dims);
  FIELD(Dims, nbDims);
  FIELD(Dims, d);
  SIZE(DimsExprs);
  FIELD(DimsExprs, nbDims);
  FIELD(DimsExprs, d);
  SIZE(PluginTensorDesc);
  FIELD(PluginTensorDesc, dims);
  FIELD(PluginTensorDesc, type);
  FIELD(PluginTensorDesc, format);
  SIZE(DynamicPluginTensorDesc);
  FIELD(DynamicPluginTensorDesc, desc);
  FIELD(DynamicPluginTensorDesc, max);
  SIZE(PluginField);
  FIELD(PluginField, name);
  FIELD(PluginField, data);
  FIELD(PluginField, type);
  FIELD(PluginField, length);
  SIZE(PluginFieldCollection);
  FIELD(PluginFieldCollection, nbFields);
  FIELD(PluginFieldCollection, fields);
  SIZE(InterfaceInfo);
  FIELD(InterfaceInfo, kind);
  VALUE(DataType::kFLOAT);
  VALUE(DataType::kHALF);
  VALUE(DataType::kINT32);
  VALUE(DataType::kBF16);
  VALUE(PluginFormat::kLINEAR);
  VALUE(PluginFieldType::kINT32);
  VALUE(DimensionOperation::kPROD);
  VALUE(PluginCapabilityType::kCORE);
  VALUE(PluginCapabilityType::kBUILD);
  VALUE(PluginCapabilityType::kRUNTIME);
  VALUE(ErrorCode::kFAILED_EXECUTION);
  VALUE(ILogger::Severity::kERROR);
}

}  // namespace

int main() {
  print_what_the_plugin_is();
  print_what_the_plugin_calls();
  print_what_is_passed();

  using RegisterCreator = bool (IPluginRegistry::*)(IPluginCreatorInterface&, const char*) noexcept;
  const vmoe::tensorrt::InterfaceLayout* layout = vmoe::tensorrt::layout_of(NV_TENSORRT_MAJOR);
  if (!layout) return 1;
  std::printf("layout %ld %ld %ld %ld\n", index_of(&ILoggerFinder::findLogger), index_of(&ILogger::log),
              index_of(static_cast<RegisterCreator>(&IPluginRegistry::registerCreator)),
              index_of(&IPluginRegistry::getAllCreators));
  std::printf("layout %d %d %d %d\n", layout->find_logger, layout->log, layout->register_creator, layout->all_creators);
  return 0;
}
