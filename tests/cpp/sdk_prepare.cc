// Prepares one picture with the public API. During the preparation, at most 64 MB may be allocated.
//
//   sdk_prepare BUNDLE ONNXRUNTIME HEIGHT WIDTH CHANNELS PIXELS IMAGE
//
// PIXELS is a file with raw uint8 pixels, or "-" for black pixels. IMAGE is the output file. Prints the preprocessing
// steps. If the picture is refused, prints the error message instead.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "loaded_engine.h"

namespace {

constexpr size_t kRoom = size_t{64} << 20;

void limit_memory() {
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kRoom;
  const rlimit limit{bytes, bytes};
  setrlimit(RLIMIT_AS, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const auto engine = load_engine(argv);
  if (!engine) return std::printf("%s\n", engine.error().message.c_str()), 1;
  const int64_t height = std::atoll(argv[3]), width = std::atoll(argv[4]), channels = std::atoll(argv[5]);
  std::vector<uint8_t> pixels(static_cast<size_t>(height * width * channels));
  if (std::string(argv[6]) != "-") {
    std::ifstream stream(argv[6], std::ios::binary);
    stream.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  }
  std::vector<uint8_t> image(engine->info().image_bytes());
  limit_memory();
  const auto written = engine->prepare_image({pixels.data(), height, width, channels}, image.data(), image.size());
  if (!written) return std::printf("%s\n", written.error().message.c_str()), 1;
  std::ofstream(argv[7], std::ios::binary)
      .write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(*written));
  std::printf("%s\n", engine->info().preprocessing.c_str());
  return 0;
}
