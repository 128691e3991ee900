// Decodes picture files to an engine's input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vmoe/engine.hpp>

// Reads the number of pixels from a picture's header. Returns twice that for 16 bits per channel. Throws RequestError.
size_t pixels_of(std::string_view file);

// Decodes a picture to an image of info.image_bytes(). pixels: the result of pixels_of(); decoding takes up to fifteen
// bytes for each. Returns the picture's EXIF orientation, or 0. Throws RequestError.
int decode_picture(const vmoe::Engine& engine, std::string_view file, size_t pixels, uint8_t* image);
