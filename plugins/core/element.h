// The elements of tensors, stored as bits, and their conversion to and from float32.
#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "core/float16.h"
#include "core/host_device.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace vmoe {

struct Float16 {
  uint16_t bits;
};

struct Bfloat16 {
  uint16_t bits;
};

VMOE_HOST_DEVICE float to_float(float value) { return value; }

VMOE_HOST_DEVICE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return from_fp16(value.bits);
#endif
}

VMOE_HOST_DEVICE float to_float(Bfloat16 value) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
#else
  return from_bf16(value.bits);
#endif
}

// Returns the value of type T nearest to `value`. Ties are rounded to even.
template <class T>
VMOE_HOST_DEVICE T from_float(float value);

template <>
VMOE_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
VMOE_HOST_DEVICE Float16 from_float<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  return {to_fp16(value)};
#endif
}

template <>
VMOE_HOST_DEVICE Bfloat16 from_float<Bfloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  return {to_bf16(value)};
#endif
}

}  // namespace vmoe
