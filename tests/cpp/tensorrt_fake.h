// The tests' fake TensorRT exports TensorRT's own functions and the functions in this header.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

extern "C" {

// Returns "namespace::name::version" for every creator in the registry, in order, separated by spaces. The string is
// valid until the next call of this function.
const char* fakeCreators() noexcept;

// fakeLoggerFinder returns a logger finder whose logger stores every message. fakeMessages returns the messages stored
// since its last call, one per line.
nvinfer1::ILoggerFinder* fakeLoggerFinder() noexcept;
const char* fakeMessages() noexcept;
}
