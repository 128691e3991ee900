// Decodes picture files to images that can be passed to an engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vmoe/engine.hpp>

// Returns the number of pixels that a picture's header states, or twice that number if a channel has 16 bits. Throws
// RequestError if the header can't be used.
size_t pixels_of(std::string_view file);

// Decodes a picture and prepares it as an image for the engine. Writes info().image_bytes() bytes to `image`. Returns
// the picture's EXIF orientation, or 0 if it has none. Throws RequestError if the picture can't be used.
//
// pixels: the result of pixels_of(file). Decoding needs up to 15 bytes of memory for each of these pixels.
int decode_picture(const vmoe::Engine& engine, std::string_view file, size_t pixels, uint8_t* image);
