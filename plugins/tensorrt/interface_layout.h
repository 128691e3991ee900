// Where virtual functions lie in the objects that TensorRT hands out. One binary serves every version from 10.0
// to 11.1, but its headers describe one version, and these classes changed between the majors:
//
//   IPluginRegistry           lost five functions of the old plugin interfaces in 11, three of them its first ones
//   ILogger, ILoggerFinder    became IVersionedInterfaces in 11, with getAPILanguage, getInterfaceInfo and the
//   destructor first
//
// Their functions are called by index here, never through the headers' classes. Whatever else TensorRT and the plugin
// call on each other lies alike in all versions: IPluginV3 and its capabilities, the creators, IExprBuilder,
// IPluginResourceContext and IErrorRecorder.
#pragma once

namespace vmoe::tensorrt {

// Indexes into the virtual table, as the Itanium C++ ABI counts: in order of declaration, a virtual destructor counts
// twice.
struct InterfaceLayout {
  int find_logger;       // ILogger* ILoggerFinder::findLogger()
  int log;               // void ILogger::log(Severity, const char*)
  int register_creator;  // bool IPluginRegistry::registerCreator(IPluginCreatorInterface&, const char*
                         // plugin_namespace)
  int all_creators;      // IPluginCreatorInterface* const* IPluginRegistry::getAllCreators(int32_t*) const
};

inline constexpr InterfaceLayout kLayout10{0, 0, 12, 13};
inline constexpr InterfaceLayout kLayout11{4, 4, 8, 9};

// Null for a TensorRT that is not known.
constexpr const InterfaceLayout* layout_of(int major) {
  if (major == 10) return &kLayout10;
  if (major == 11) return &kLayout11;
  return nullptr;
}

template <class Result, class... Arguments>
Result call_virtual(void* object, int index, Arguments... arguments) {
  using Function = Result (*)(void*, Arguments...);
  void** table = *static_cast<void***>(object);
  return reinterpret_cast<Function>(table[index])(object, arguments...);
}

}  // namespace vmoe::tensorrt
