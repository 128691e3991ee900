// Loads the engine that a test program's arguments specify, and makes images for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "vmoe/engine.hpp"

// Loads an engine. `argv` contains a program's arguments, which begin with BUNDLE and ONNXRUNTIME.
inline vmoe::Result<vmoe::Engine> load_engine(char** argv, int threads = 1, bool verify = true) {
  vmoe::LoadOptions options;
  options.onnxruntime = argv[2];
  options.threads = threads;
  options.verify = verify;
  return vmoe::Engine::load(argv[1], options);
}

// A batch of noise images.
struct Noise {
  std::vector<uint8_t> pixels;
  vmoe::Images images;

  Noise(const vmoe::Info& info, int64_t count)
      : pixels(static_cast<size_t>(count * info.height * info.width * info.channels)),
        images(vmoe::Images::uint8(pixels.data(), count, info.height, info.width, info.channels)) {
    std::mt19937 random(1);
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
  }
  Noise(const Noise&) = delete;
};
