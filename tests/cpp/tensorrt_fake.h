// The functions that the tests' fake TensorRT exports in addition to TensorRT's own.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

extern "C" {

// Returns "namespace::name::version" of every creator in the registry, in order, separated by spaces. The string is
// valid until the next call.
const char* fakeCreators() noexcept;

// fakeLoggerFinder returns a finder of a logger that stores every message. fakeMessages returns the messages stored
// since its last call, one per line.
nvinfer1::ILoggerFinder* fakeLoggerFinder() noexcept;
const char* fakeMessages() noexcept;
}
