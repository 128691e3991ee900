// Encoded picture files to an engine's input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vmoe/engine.hpp>

// Pixels of a picture according to its header, twice as many if they have 16 bits per channel. Throws RequestError.
size_t pixels_of(std::string_view file);

// Decodes a picture to an image of info.image_bytes(); needs up to fifteen bytes per pixel. Returns its EXIF
// orientation, or 0. Throws RequestError.
int decode_picture(const vmoe::Engine& engine, std::string_view file, uint8_t* image);
