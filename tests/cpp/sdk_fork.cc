// Loads an engine and forks. The child calls the parent's engine, which must refuse the call. The child then loads its
// own engine and calls it. All engines are freed.
//
//   sdk_fork BUNDLE ONNXRUNTIME
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "loaded_engine.h"

namespace {

using Answer = vmoe::Result<std::vector<float>>;

Answer answer(const vmoe::Engine& engine) {
  const vmoe::Info info = engine.info();
  static const std::vector<float> pixels(static_cast<size_t>(info.height * info.width * info.channels), 0.5F);
  return engine.run({pixels.data(), VMOE_FLOAT32, 1, info.height, info.width, info.channels});
}

int child(const vmoe::Engine& parents, const std::vector<float>& expected, char** argv) {
  const Answer refused = answer(parents);
  if (refused) return 3;
  std::printf("%s\n", refused.error().message.c_str());
  const auto own = load_engine(argv, 2);
  if (!own) return 4;
  const Answer found = answer(*own);
  if (!found || *found != expected) return 5;
  std::printf("the same answer\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto engine = load_engine(argv, 2);
  if (!engine) return 1;
  const Answer expected = answer(*engine);
  if (!expected) return 1;
  const pid_t forked = fork();
  if (forked == 0)
    return child(*engine, *expected, argv);  // when main returns in the child, the child also frees the parent's engine
  int status = 0;
  if (waitpid(forked, &status, 0) != forked) return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
