// Classifies one image file:  classify BUNDLE IMAGE [PROFILE]
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb_image.h>
#include <stb_image_resize2.h>

#include <algorithm>
#include <cstdio>
#include <vmoe/engine.hpp>

int fail(const std::string& sentence) { return std::fprintf(stderr, "classify: %s\n", sentence.c_str()), 1; }

int main(int argc, char** argv) {
  if (argc < 3) return fail("usage: classify BUNDLE IMAGE [PROFILE]");
  auto engine = vmoe::Engine::load(argv[1]);
  if (!engine) return fail(engine.error().message);
  const vmoe::Info& info = engine->info();
  const int height = info.height, width = info.width, channels = info.channels, batch = info.batch_multiple;

  int file_width = 0, file_height = 0;
  stbi_uc* file = stbi_load(argv[2], &file_width, &file_height, nullptr, channels);
  if (file == nullptr) return fail(std::string(argv[2]) + " is not a readable image: " + stbi_failure_reason());
  // A bundle that routes several images together wants that many: the others stay black.
  std::vector<uint8_t> pixels(size_t(batch) * height * width * channels);
  stbir_resize(file, file_width, file_height, 0, pixels.data(), width, height, 0, stbir_pixel_layout(channels),
               STBIR_TYPE_UINT8, STBIR_EDGE_CLAMP, STBIR_FILTER_TRIANGLE);
  stbi_image_free(file);

  vmoe::Setting setting;
  if (argc > 3) setting.profile = argv[3];
  auto logits = engine->run(vmoe::Images::uint8(pixels.data(), batch, height, width, channels), setting);
  if (!logits) return fail(logits.error().message);
  const int best = std::max_element(logits->begin(), logits->begin() + info.output_size) - logits->begin();
  const std::string name = info.class_names.empty() ? "class " + std::to_string(best) : info.class_names[best];
  std::printf("%s %.4f\n", name.c_str(), (*logits)[best]);
}
