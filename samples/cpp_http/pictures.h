// Encoded picture files to an engine's input.
#ifndef VMOE_HTTP_PICTURES_H_
#define VMOE_HTTP_PICTURES_H_

#include <cstddef>
#include <string_view>
#include <vector>
#include <vmoe/engine.hpp>

#include "requests.h"
#include "turns.h"

// Decodes few pictures at once, however many clients there are: a small file can take a gigabyte, in 16-bit RGBA.
class PictureReader {
 public:
  // at_once: pictures, of which Turns::kMost are decoded at most.
  PictureReader(const vmoe::Engine& engine, size_t at_once) : engine_(engine), turns_(at_once) {}

  // Throws RequestError.
  ImageBatch read(const std::vector<std::string_view>& files);

 private:
  void read_one(std::string_view file, void* image) const;

  const vmoe::Engine& engine_;
  Turns turns_;
};

#endif  // VMOE_HTTP_PICTURES_H_
