// The preprocessing steps: how a picture of any size becomes an image of the model's size.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmoe::sdk {

// A rectangle of pixels inside a larger one.
struct Window {
  int64_t top = 0, left = 0, height = 0, width = 0;
};

enum class Method { kNone, kArea, kBilinear, kPillowBilinear, kPillowBicubic };

// What the steps do to a picture of one size.
struct Geometry {
  Window source;                  // what is used of the picture
  Method method = Method::kNone;  // how it is resized
  int64_t height = 0, width = 0;  // what it is resized to
  Window target;                  // what is kept of that
  bool down_first = false;        // whether Pillow resizes down columns before along rows
};

// One step, in pixels; one that keeps the shape has the short side in both.
struct Step {
  std::string name;
  int64_t height = 0, width = 0;

  Method method() const;     // kNone for a crop
  bool keeps_shape() const;  // whether it makes the short side of a picture so long
};

struct Preprocessing {
  std::vector<Step> steps;  // those that crop and resize
  bool rotates = false;     // whether a picture is first turned as its EXIF orientation says
  // Red, green and blue behind what is transparent; none for the colours that are stored there.
  std::optional<std::array<uint8_t, 3>> background;
  std::string text;  // such as "exif|resize_small(256)|central_crop(224)"

  // Throws VMOE_IMAGE_ERROR: the picture is empty, too small to be cropped, or too long and narrow to be resized.
  Geometry geometry(int64_t height, int64_t width) const;
};

// Reads the steps of a manifest. Throws VMOE_BUNDLE_ERROR: they are none, or don't end in images of height x width.
Preprocessing read_steps(std::string_view text, int64_t height, int64_t width);

}  // namespace vmoe::sdk
