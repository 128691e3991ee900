// Encoded picture files to an engine's input.
#ifndef VMOE_SERVICE_PICTURES_H_
#define VMOE_SERVICE_PICTURES_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vmoe/engine.hpp>

// How many pixels a picture has by its header, counted twice where they have 16 bits per channel. Throws RequestError.
size_t pixels_of(std::string_view file);

// Decodes a picture to an image of info.image_bytes(), for which it may take ten bytes a pixel. Throws RequestError.
void decode_picture(const vmoe::Engine& engine, std::string_view file, uint8_t* image);

#endif  // VMOE_SERVICE_PICTURES_H_
