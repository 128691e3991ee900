#include "sdk/preprocessing.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <regex>
#include <utility>

#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {

namespace {

constexpr char kWhere[] = "'preprocessing': ";

using Size = std::pair<int64_t, int64_t>;

std::string size_text(int64_t height, int64_t width) { return std::to_string(height) + "x" + std::to_string(width); }

std::string step_text(const Step& step) {
  const std::string second = step.height == step.width ? "" : "," + std::to_string(step.width);
  return step.name + "(" + std::to_string(step.height) + second + ")";
}

// Parses a step. Returns std::nullopt if `text` is not a step.
std::optional<Step> parse_step(const std::string& text) {
  static const std::regex pattern(kStepPattern);
  std::smatch parts;
  if (text.size() > kMaxName || !std::regex_match(text, parts, pattern)) return std::nullopt;
  const bool square = !parts[3].matched;
  Step step{parts.str(1), std::stol(parts.str(2)), std::stol(parts.str(square ? 2 : 3))};
  if (step.keeps_shape() && !square) return std::nullopt;
  return step;
}

Step read_step(const std::string& text) {
  const auto step = parse_step(text);
  if (!step) fail(VMOE_BUNDLE_ERROR, kWhere, in_quotes(text), " is not a step; the steps are ", kKnownSteps);
  if (std::max(step->height, step->width) > kMaxSide) {
    fail(VMOE_BUNDLE_ERROR, kWhere, text, " is out of range: a side has at most ", kMaxSide, " pixels");
  }
  return *step;
}

// Reads a step that must come before cropping and resizing. Returns false if `text` is not such a step.
bool read_first_step(const std::string& text, Preprocessing& preprocessing) {
  static const std::regex pattern(kBackgroundPattern);
  std::smatch colours;
  if (!preprocessing.steps.empty() || preprocessing.background || text.size() > kMaxName) return false;
  if (text == kRotation && !preprocessing.rotates) return preprocessing.rotates = true;
  if (!std::regex_match(text, colours, pattern)) return false;
  preprocessing.background.emplace();
  for (size_t i = 0; i < 3; ++i) {
    const long value = std::stol(colours.str(i + 1));
    if (value > UINT8_MAX) {
      fail(VMOE_BUNDLE_ERROR, kWhere, text, " is out of range: red, green and blue are 0 to 255");
    }
    (*preprocessing.background)[i] = static_cast<uint8_t>(value);
  }
  return true;
}

std::string background_text(const std::array<uint8_t, 3>& colour) {
  const auto number = [&](size_t i) { return std::to_string(colour[i]); };
  return "background(" + number(0) + "," + number(1) + "," + number(2) + ")";
}

bool by_pillow(Method method) { return method == Method::kPillowBilinear || method == Method::kPillowBicubic; }

Size resized_by(const Step& step, int64_t height, int64_t width) {
  if (!step.keeps_shape()) return {step.height, step.width};
  const int64_t small = std::min(height, width);
  if (by_pillow(step.method())) return {step.height * height / small, step.height * width / small};
  // Rounds each operation to float32, as the official code does.
  const float ratio = static_cast<float>(step.height) / static_cast<float>(small);
  return {static_cast<int64_t>(std::nearbyint(static_cast<float>(height) * ratio)),
          static_cast<int64_t>(std::nearbyint(static_cast<float>(width) * ratio))};
}

// Returns whether Pillow resizes columns before rows. From version 13 on, Pillow does so if the height loses more than
// twice as many pixels as the width.
bool is_down_first(const Window& source, Size resized) {
  const int64_t lost = source.height - resized.first;
  return lost > 0 && lost > 2 * (source.width - resized.second);
}

// Returns whether Pillow's resizing would need more memory than the limit allows. The memory holds the results of both
// passes and the coefficients.
bool too_much_for_pillow(const Window& source, Size resized) {
  const int64_t first = is_down_first(source, resized) ? resized.first * source.width : source.height * resized.second;
  return first + resized.first * resized.second + 8 * (source.height + source.width) > kMaxPillowPixels;
}

Window cropped_by(const Step& step, const Window& window) {
  const auto offset = [&](int64_t left_over) {
    const bool up = step.name == "round_central_crop" && left_over % 4 == 3;  // rounds half to even
    return left_over / 2 + static_cast<int64_t>(up);
  };
  return {window.top + offset(window.height - step.height), window.left + offset(window.width - step.width),
          step.height, step.width};
}

void check_size(const Preprocessing& preprocessing, int64_t height, int64_t width) {
  std::optional<Size> size;   // the picture's size before the current step; set only if all pictures have the same
  std::optional<Size> least;  // the smallest possible size of a picture before the current step; set only if known
  for (const Step& step : preprocessing.steps) {
    if (step.keeps_shape()) {
      if (size) size = resized_by(step, size->first, size->second);
      least = size ? size : Size{step.height, step.height};
      continue;
    }
    if (step.method() == Method::kNone && least && (step.height > least->first || step.width > least->second)) {
      fail(VMOE_BUNDLE_ERROR, kWhere, step_text(step), " takes more pixels than the steps before it leave");
    }
    size = least = Size{step.height, step.width};
  }
  if (size != Size{height, width}) {
    const std::string made =
        size ? "pictures of " + size_text(size->first, size->second) + " pixels" : "pictures of several sizes";
    fail(VMOE_BUNDLE_ERROR, kWhere, "the steps ", preprocessing.text, " give ", made, ", and the model takes ",
         size_text(height, width));
  }
}

}  // namespace

Method Step::method() const {
  const auto has = [&](const char* word) { return name.find(word) != std::string::npos; };
  if (has("crop")) return Method::kNone;
  if (has("pillow")) return has("bicubic") ? Method::kPillowBicubic : Method::kPillowBilinear;
  return keeps_shape() ? Method::kArea : Method::kBilinear;
}

bool Step::keeps_shape() const { return name.find("small") != std::string::npos; }

Geometry Preprocessing::geometry(int64_t height, int64_t width) const {
  const std::string whole = size_text(height, width);
  if (height < 1 || width < 1) fail(VMOE_IMAGE_ERROR, "the picture has no pixels: it is ", whole);
  Geometry geometry{{0, 0, height, width}, Method::kNone, height, width, {0, 0, height, width}, false};
  Window& target = geometry.target;
  for (const Step& step : steps) {
    if (step.method() == Method::kNone) {
      if (step.height > target.height || step.width > target.width) {
        fail(VMOE_IMAGE_ERROR, "the picture is too small for ", step_text(step), ": it has ",
             size_text(target.height, target.width), " pixels there");
      }
      target = cropped_by(step, target);
      continue;
    }
    geometry.source = target;
    geometry.method = step.method();
    const Size resized = resized_by(step, target.height, target.width);
    if (std::max(resized.first, resized.second) > kMaxResizedSide ||
        (by_pillow(geometry.method) && too_much_for_pillow(geometry.source, resized))) {
      fail(VMOE_IMAGE_ERROR, "the picture is too long and narrow: ", step_text(step), " makes ",
           size_text(resized.first, resized.second), " pixels of its ", whole, "; crop it first");
    }
    geometry.down_first = is_down_first(geometry.source, resized);
    geometry.height = resized.first;
    geometry.width = resized.second;
    target = {0, 0, resized.first, resized.second};
  }
  return geometry;
}

Preprocessing read_steps(std::string_view text, int64_t height, int64_t width) {
  Preprocessing preprocessing;
  std::vector<Step>& steps = preprocessing.steps;
  size_t count = 0;
  for (bool more = true; more; ++count) {
    if (count == kMaxSteps) fail(VMOE_BUNDLE_ERROR, kWhere, "there are more than ", kMaxSteps, " steps");
    const size_t end = text.find('|');
    const std::string step(text.substr(0, end));
    if (!read_first_step(step, preprocessing)) steps.push_back(read_step(step));
    more = end != std::string_view::npos;
    if (more) text.remove_prefix(end + 1);
  }
  if (preprocessing.rotates) preprocessing.text = kRotation;
  const auto append = [&](const std::string& step) {
    preprocessing.text += (preprocessing.text.empty() ? "" : "|") + step;
  };
  if (preprocessing.background) append(background_text(*preprocessing.background));
  for (const Step& step : steps) append(step_text(step));
  if (std::count_if(steps.begin(), steps.end(), [](const Step& step) { return step.method() != Method::kNone; }) > 1) {
    fail(VMOE_BUNDLE_ERROR, kWhere, "only one step may resize");
  }
  check_size(preprocessing, height, width);
  return preprocessing;
}

}  // namespace vmoe::sdk
