#include "sdk/images.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>

#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"
#include "sdk/log.h"
#include "sdk/resampling.h"

namespace vmoe::sdk {

namespace {

using WideSize = unsigned __int128;

// Scales a pixel from 0..255 to [-1, 1]. As in the official step value_range(-1, 1), each operation is rounded to
// float32.
float scaled(float pixel) {
  const float share = pixel / 255.0F;
  return share * 2.0F - 1.0F;
}

std::string shape_of(int64_t height, int64_t width, int64_t channels) {
  return std::to_string(height) + ", " + std::to_string(width) + ", " + std::to_string(channels) + ")";
}

const char* dtype_name(int32_t dtype) { return dtype == VMOE_UINT8 ? "uint8" : "float32"; }

void check_shape(const vmoe_images& images, const vmoe_info& info) {
  if (images.height != info.height || images.width != info.width || images.channels != info.channels) {
    fail(VMOE_IMAGE_ERROR, "images have shape (", images.count, ", ",
         shape_of(images.height, images.width, images.channels), ", and the model takes (N, ",
         shape_of(info.height, info.width, info.channels));
  }
}

void check_dtype(const vmoe_images& images, const vmoe_info& info) {
  if (images.dtype != VMOE_FLOAT32 && images.dtype != VMOE_UINT8) {
    fail(VMOE_IMAGE_ERROR, "images have the dtype ", images.dtype, ", which is neither VMOE_FLOAT32 nor VMOE_UINT8");
  }
  if (images.dtype == VMOE_FLOAT32 && info.input_dtype == VMOE_UINT8) {
    fail(VMOE_IMAGE_ERROR, "images are float32, and the model takes uint8");
  }
}

// Returns the size in bytes of an array dtype[extents]. The size may need more than 64 bits if an attacker chose the
// extents.
WideSize bytes_of(int32_t dtype, std::initializer_list<int64_t> extents) {
  WideSize bytes = dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float);
  for (const int64_t extent : extents) bytes *= static_cast<WideSize>(extent);
  return bytes;
}

void check_memory(const void* memory, int32_t dtype, const char* what) {
  if (memory == nullptr) fail(VMOE_ARGUMENT_ERROR, what, " is a null pointer");
  if (dtype == VMOE_FLOAT32 && reinterpret_cast<uintptr_t>(memory) % alignof(float) != 0) {
    fail(VMOE_ARGUMENT_ERROR, what, " is not aligned to the size of a float");
  }
}

void check_data(const vmoe_images& images) {
  if (bytes_of(images.dtype, {images.count, images.height, images.width, images.channels}) != images.data_bytes) {
    fail(VMOE_IMAGE_ERROR, "the images' data has ", images.data_bytes, " bytes, which does not match ", images.count,
         " images of ", dtype_name(images.dtype), "[", images.height, ",", images.width, ",", images.channels, "]");
  }
  check_memory(images.data, images.dtype, "the images' data");
}

// Refuses float32 pixels that are still in the range 0..255, because the model would give wrong results for them. The
// Python runtime refuses such pixels too.
void check_values(const vmoe_images& images) {
  if (images.dtype != VMOE_FLOAT32) return;
  const auto* values = static_cast<const float*>(images.data);
  const size_t count = images.data_bytes / sizeof(float);
  const auto* end = values + count;
  int is_beyond = 0, is_nan = 0;  // computed without branches, so that the compiler can vectorize the loop
  for (const auto* value = values; value != end; ++value) {
    is_beyond |= std::fabs(*value) > static_cast<float>(kLargestFloat) ? 1 : 0;
    is_nan |= std::isnan(*value) ? 1 : 0;
  }
  if (is_beyond != 0) {
    const auto extreme = [&](auto choose) { return rounded(std::accumulate(values, end, *values, choose)); };
    fail(VMOE_IMAGE_ERROR, "float images go from ", extreme([](float a, float b) { return std::fmin(a, b); }), " to ",
         extreme([](float a, float b) { return std::fmax(a, b); }),
         ", and the model takes float32 in [-1, 1]; pass pixels 0..255 as uint8, or scale them: pixels / 255 * 2 - 1");
  }
  static std::atomic_flag is_told = ATOMIC_FLAG_INIT;
  if (is_nan != 0 && is_logged(VMOE_LOG_WARNING) && !is_told.test_and_set()) {
    log(VMOE_LOG_WARNING, "the images have NaN pixels, which make NaN of the answers");
  }
}

void check_picture(const vmoe_picture& picture, const vmoe_info& info) {
  if (picture.channels != info.channels && picture.channels != info.channels + 1) {
    fail(VMOE_IMAGE_ERROR, "the picture has ", picture.channels, " channels, and the model takes ", info.channels);
  }
  if (picture.orientation < 0 || picture.orientation > 8) {
    fail(VMOE_IMAGE_ERROR, "the picture has orientation ", picture.orientation, ", and EXIF has 1 to 8");
  }
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (picture.height < 1 || picture.width < 1 || picture.height > kMost || picture.width > kMost) {
    fail(VMOE_IMAGE_ERROR, "the picture has ", picture.height, "x", picture.width, " pixels, which no picture has");
  }
  if (bytes_of(VMOE_UINT8, {picture.height, picture.width, picture.channels}) != picture.data_bytes) {
    fail(VMOE_IMAGE_ERROR, "the picture's data has ", picture.data_bytes, " bytes, which does not match uint8[",
         picture.height, ",", picture.width, ",", picture.channels, "]");
  }
  check_memory(picture.data, VMOE_UINT8, "the picture's data");
}

// Removes the alpha channel, which is the last channel. Blends the pixels onto the background if there is one. Without
// a background, the colours stay as they are. Rounds as Pillow does.
std::vector<uint8_t> opaque(const vmoe_picture& picture, const std::optional<std::array<uint8_t, 3>>& background) {
  const auto channels = static_cast<size_t>(picture.channels - 1);
  const auto [red, green, blue] = background.value_or(std::array<uint8_t, 3>{});
  const auto grey =
      static_cast<uint8_t>((red * kGreyWeights[0] + green * kGreyWeights[1] + blue * kGreyWeights[2] + 0x8000) >> 16);
  const std::array<uint8_t, 3> behind = channels == 3 ? std::array{red, green, blue} : std::array{grey, grey, grey};
  std::vector<uint8_t> pixels(picture.data_bytes / (channels + 1) * channels);
  const uint8_t* source = picture.data;
  for (size_t i = 0; i < pixels.size(); i += channels, source += channels + 1) {
    const uint32_t alpha = background ? source[channels] : UINT8_MAX;
    for (size_t channel = 0; channel < channels; ++channel) {
      const uint32_t sum = source[channel] * alpha + behind[channel % 3] * (UINT8_MAX - alpha) + 128;
      pixels[i + channel] = static_cast<uint8_t>(((sum >> 8) + sum) >> 8);
    }
  }
  return pixels;
}

// Returns a picture's pixels, rotated or mirrored as `orientation` prescribes. `orientation` is an EXIF orientation
// from 2 to 8.
std::vector<uint8_t> turned(const Pixels& picture, int32_t orientation) {
  const auto is_one_of = [&](const char* orientations) {
    return std::strchr(orientations, '0' + orientation) != nullptr;
  };
  const bool swaps = orientation >= 5, flips_rows = is_one_of("3467"), flips_columns = is_one_of("2378");
  const auto channels = static_cast<size_t>(picture.channels);
  std::vector<uint8_t> pixels(static_cast<size_t>(picture.height * picture.width) * channels);
  uint8_t* target = pixels.data();
  const int64_t height = swaps ? picture.width : picture.height, width = swaps ? picture.height : picture.width;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int64_t row = swaps ? x : y, column = swaps ? y : x;
      const int64_t from = (flips_rows ? picture.height - 1 - row : row) * picture.width +
                           (flips_columns ? picture.width - 1 - column : column);
      target = std::copy_n(picture.data + from * picture.channels, channels, target);
    }
  }
  return pixels;
}

// Warns only once per process, because a service may receive thousands of pictures whose orientation it ignores.
void warn_unturned(int32_t orientation) {
  static std::atomic_flag is_told = ATOMIC_FLAG_INIT;
  if (is_told.test_and_set()) return;
  log(VMOE_LOG_WARNING, "a picture has EXIF orientation ", orientation,
      ", and the model takes pictures as they are stored");
}

void check_room(const vmoe_info& info, const void* image, size_t image_bytes) {
  if (bytes_of(info.input_dtype, {info.height, info.width, info.channels}) > image_bytes) {
    fail(VMOE_ARGUMENT_ERROR, "the image has room for ", image_bytes, " bytes, and it has ",
         dtype_name(info.input_dtype), "[", info.height, ",", info.width, ",", info.channels, "]");
  }
  check_memory(image, info.input_dtype, "the image's memory");
}

}  // namespace

void prepare_image(const vmoe_picture& picture, const Manifest& manifest, void* image, size_t image_bytes) {
  const vmoe_info& info = manifest.info;
  check_picture(picture, info);
  check_room(info, image, image_bytes);
  const Preprocessing& steps = manifest.preprocessing;
  Pixels pixels{picture.data, picture.height, picture.width, info.channels};
  std::vector<uint8_t> without_transparency, upright;
  if (picture.channels > info.channels) {
    without_transparency = opaque(picture, steps.background);
    pixels.data = without_transparency.data();
  }
  if (picture.orientation > 1 && steps.rotates) {
    upright = turned(pixels, picture.orientation);
    pixels.data = upright.data();
    if (picture.orientation >= 5) std::swap(pixels.height, pixels.width);
  } else if (picture.orientation > 1) {
    warn_unturned(picture.orientation);
  }
  const Geometry geometry = steps.geometry(pixels.height, pixels.width);
  const auto count = static_cast<size_t>(info.width * info.channels);
  auto* floats = static_cast<float*>(image);
  auto* bytes = static_cast<uint8_t*>(image);
  resample(pixels, geometry, [&](const float* row) {
    for (size_t i = 0; i < count; ++i) {
      // Truncates bilinear results, because the official bilinear step casts its result to uint8.
      const float pixel = geometry.method == Method::kBilinear ? std::floor(row[i]) : row[i];
      if (info.input_dtype == VMOE_UINT8) {
        *bytes++ = static_cast<uint8_t>(std::clamp(std::nearbyint(pixel), 0.0F, 255.0F));
      } else {
        *floats++ = scaled(pixel);
      }
    }
  });
}

void check_count(int64_t count, const Manifest& manifest) {
  if (count < 1) fail(VMOE_IMAGE_ERROR, "there are no images: the count is ", count);
  if (count % manifest.info.batch_multiple != 0) {
    fail(VMOE_IMAGE_ERROR, "the batch has ", count, " images, and this bundle routes in groups (",
         one_line(manifest.group), ") that need a multiple of ", manifest.info.batch_multiple);
  }
}

void check_images(const vmoe_images& images, const Manifest& manifest) {
  check_shape(images, manifest.info);
  check_count(images.count, manifest);
  check_dtype(images, manifest.info);
  check_data(images);
  check_values(images);
}

Batch make_batch(const vmoe_images& images, const Manifest& manifest) {
  check_images(images, manifest);
  const vmoe_info& info = manifest.info;
  Batch batch{
      {"image",
       info.input_dtype == VMOE_UINT8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
       images.data,
       images.data_bytes,
       {images.count, images.height, images.width, images.channels}},
      {}};
  if (images.dtype == VMOE_UINT8 && info.input_dtype == VMOE_FLOAT32) {
    std::array<float, 256> scale{};
    for (size_t pixel = 0; pixel < scale.size(); ++pixel) scale[pixel] = scaled(static_cast<float>(pixel));
    const auto* pixels = static_cast<const uint8_t*>(images.data);
    batch.scaled.resize(images.data_bytes);
    for (size_t i = 0; i < images.data_bytes; ++i) batch.scaled[i] = scale[pixels[i]];
    batch.image.data = batch.scaled.data();
    batch.image.bytes = batch.scaled.size() * sizeof(float);
  }
  return batch;
}

}  // namespace vmoe::sdk
