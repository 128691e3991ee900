// A program that opens libraries in the order of its arguments, "local:PATH" or "global:PATH", and then prints a line
// for each fake TensorRT among them: its creators, and whether it had been set up when it was asked for its registry.
//
// With HAS_TENSORRT it is linked with one or contains one, and prints the line of that last.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#ifdef HAS_TENSORRT
extern "C" const char* fakeCreators() noexcept;
extern "C" bool fakeWasReady() noexcept;
#endif

int main(int argc, char** argv) {
  void* opened[16] = {};
  for (int i = 1; i < argc && i < 16; ++i) {
    const char* path = std::strchr(argv[i], ':');
    if (!path) return 2;
    const int scope = std::strncmp(argv[i], "global", 6) == 0 ? RTLD_GLOBAL : RTLD_LOCAL;
    opened[i] = dlopen(path + 1, RTLD_NOW | scope);
    if (!opened[i]) {
      std::printf("not opened: %s\n", dlerror());
      return 1;
    }
  }
  for (int i = 1; i < argc && i < 16; ++i) {
    void* creators = dlsym(opened[i], "fakeCreators");
    void* ready = dlsym(opened[i], "fakeWasReady");
    if (!creators || !ready) continue;
    std::printf("%s ready %d\n", reinterpret_cast<const char* (*)()>(creators)(),
                reinterpret_cast<bool (*)()>(ready)() ? 1 : 0);
  }
#ifdef HAS_TENSORRT
  std::printf("%s ready %d\n", fakeCreators(), fakeWasReady() ? 1 : 0);
#endif
  return 0;
}
