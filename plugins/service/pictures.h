// Encoded picture files to an engine's input.
#ifndef VMOE_SERVICE_PICTURES_H_
#define VMOE_SERVICE_PICTURES_H_

#include <string>
#include <vector>
#include <vmoe/engine.hpp>

#include "requests.h"

// A picture may take a gigabyte of memory while it is decoded, in 16-bit RGBA: let few threads decode. Throws
// RequestError.
ImageBatch read_pictures(const vmoe::Engine& engine, const std::vector<std::string>& files);

#endif  // VMOE_SERVICE_PICTURES_H_
