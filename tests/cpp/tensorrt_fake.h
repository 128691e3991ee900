// What the fake TensorRT of the tests exports besides TensorRT's own functions.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

extern "C" {

// "namespace::name::version" of every creator in the registry, space separated, in order; the text lives until the next
// call.
const char* fakeCreators() noexcept;

// A finder whose logger keeps every message, and the messages since the last call, one a line.
nvinfer1::ILoggerFinder* fakeLoggerFinder() noexcept;
const char* fakeMessages() noexcept;
}
