// Keeps this library loaded. On other systems, the linker option `-z nodelete` has this effect, but macOS does not have
// that option. A library that opens itself is never unloaded.
#include <dlfcn.h>

namespace {

__attribute__((constructor)) void stay_loaded() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&stay_loaded), &info) != 0) dlopen(info.dli_fname, RTLD_LAZY);
}

}  // namespace
