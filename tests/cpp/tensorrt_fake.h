// The functions that the tests' fake TensorRT exports in addition to TensorRT's own.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

extern "C" {

// Returns "namespace::name::version" of every creator in the registry, in order, separated by spaces; the text is valid
// until the next call.
const char* fakeCreators() noexcept;

// Returns a finder whose logger keeps every message; fakeMessages returns those since its last call, one per line.
nvinfer1::ILoggerFinder* fakeLoggerFinder() noexcept;
const char* fakeMessages() noexcept;
}
