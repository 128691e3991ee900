// Classifies one image file: classify BUNDLE IMAGE [PROFILE]
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

#include <algorithm>
#include <cstdio>
#include <vmoe/engine.hpp>

int fail(const std::string& message) { return std::fprintf(stderr, "classify: %s\n", message.c_str()), 1; }

int main(int argc, char** argv) {
  if (argc < 3) return fail("usage: classify BUNDLE IMAGE [PROFILE]");
  auto engine = vmoe::Engine::load(argv[1]);
  if (!engine) return fail(engine.error().message);
  const vmoe::Info& info = engine->info();
  if (info.output != VMOE_LOGITS) return fail("the bundle does not output logits");
  const int channels = info.channels, batch = info.batch_multiple;

  int file_width = 0, file_height = 0;
  stbi_uc* file = stbi_load(argv[2], &file_width, &file_height, nullptr, channels);
  if (file == nullptr) return fail(std::string(argv[2]) + " is not a readable image: " + stbi_failure_reason());
  // A bundle that routes images in groups can only run whole groups. So the picture becomes the first image of a
  // group, and the group's other images are all zeros.
  std::vector<uint8_t> images(batch * info.image_bytes());
  auto prepared = engine->prepare_image({file, file_height, file_width, channels}, images.data(), info.image_bytes());
  stbi_image_free(file);
  if (!prepared) return fail(prepared.error().message);

  vmoe::Setting setting;
  if (argc > 3) setting.profile = argv[3];
  auto logits = engine->run({images.data(), info.input_dtype, batch, info.height, info.width, channels}, setting);
  if (!logits) return fail(logits.error().message);
  const int best = std::max_element(logits->begin(), logits->begin() + info.output_size) - logits->begin();
  const std::string name = info.class_names.empty() ? "class " + std::to_string(best) : info.class_names[best];
  std::printf("%s %.4f\n", name.c_str(), (*logits)[best]);
}
