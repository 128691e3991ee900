// Preprocessing steps, which turn a picture of any size into an image of the model's size.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmoe::sdk {

// A rectangular part of a picture, in pixels.
struct Window {
  int64_t top = 0, left = 0, height = 0, width = 0;
};

enum class Method { kNone, kArea, kBilinear, kPillowBilinear, kPillowBicubic };

// Describes what the preprocessing steps do with pictures of one size.
struct Geometry {
  Window source;                  // the part of the picture that is resized
  Method method = Method::kNone;  // how it is resized
  int64_t height = 0, width = 0;  // the size that `source` is resized to
  Window target;                  // the part of the resized picture that is kept
  bool down_first = false;        // whether Pillow resizes columns before rows
};

// One preprocessing step, with sizes in pixels. If the step keeps the aspect ratio, `height` and `width` are both the
// length of the short side.
struct Step {
  std::string name;
  int64_t height = 0, width = 0;

  Method method() const;     // kNone for a crop
  bool keeps_shape() const;  // whether the step resizes the short side to a given length and keeps the aspect ratio
};

struct Preprocessing {
  std::vector<Step> steps;  // the steps that crop and resize
  bool rotates = false;     // whether pictures are first rotated or mirrored by their EXIF orientation
  // The colour (red, green, blue) that is placed behind transparent pixels. If no colour is set, transparent pixels
  // keep their stored colours.
  std::optional<std::array<uint8_t, 3>> background;
  std::string text;  // such as "exif|resize_small(256)|central_crop(224)"

  // Returns the geometry for a picture of this size. Throws VMOE_IMAGE_ERROR if the picture is empty, if it is too
  // small to crop, or if it is too long and narrow to resize.
  Geometry geometry(int64_t height, int64_t width) const;
};

// Reads the preprocessing steps in a manifest. Throws VMOE_BUNDLE_ERROR if `text` is invalid, or if the steps don't
// produce images of `height` x `width` pixels.
Preprocessing read_steps(std::string_view text, int64_t height, int64_t width);

}  // namespace vmoe::sdk
