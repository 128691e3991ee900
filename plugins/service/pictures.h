// Decodes picture files to an engine's input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vmoe/engine.hpp>

// Returns the number of pixels that a picture's header states, or twice that number if a channel has 16 bits. Throws
// RequestError.
size_t pixels_of(std::string_view file);

// Decodes a picture to an image of info.image_bytes(). Returns the picture's EXIF orientation, or 0. Throws
// RequestError.
//
// pixels: the result of pixels_of(); decoding needs up to fifteen bytes of memory for each of them.
int decode_picture(const vmoe::Engine& engine, std::string_view file, size_t pixels, uint8_t* image);
