// What `-z nodelete` is to other linkers: a library that holds itself open is never unloaded.
#include <dlfcn.h>

namespace {

__attribute__((constructor)) void stay_loaded() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&stay_loaded), &info) != 0) dlopen(info.dli_fname, RTLD_LAZY);
}

}  // namespace
