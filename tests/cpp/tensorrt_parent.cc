// Opens the libraries listed in its arguments, in order. Then prints one line for each fake TensorRT among these
// libraries. The line lists the creators that are registered with that fake TensorRT.
#include <dlfcn.h>

#include <cstdio>
#include <vector>

int main(int argc, char** argv) {
  std::vector<void*> opened;
  for (int i = 1; i < argc; ++i) {
    opened.push_back(dlopen(argv[i], RTLD_NOW | RTLD_LOCAL));
    if (!opened.back()) {
      std::printf("not opened: %s\n", dlerror());
      return 1;
    }
  }
  for (void* library : opened) {
    if (void* creators = dlsym(library, "fakeCreators")) {
      std::printf("%s\n", reinterpret_cast<const char* (*)()>(creators)());
    }
  }
  return 0;
}
