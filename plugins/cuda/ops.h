// Gates, routing, dispatch and combine on a GPU. Every call only puts work on its stream: no allocation, no
// synchronisation, and the same launches each time, so that it may be captured in a CUDA graph. Slots, sources and
// weights have the bits of core/routing.h; so has combine in float32, of core/dispatch.h.
//
// Pointers are device memory; tensors are dense and row-major. A call on a machine without a usable device returns
// CUDA's error and does nothing else.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "cuda/limits.h"

namespace vmoe::cuda {

// The op VmoeGates: x f32[tokens,D], router f32[D,E] -> gates f32[tokens,E], softmax(x . router), whose bits depend on
// the token and the router alone. cudaErrorInvalidValue for more than kMostExperts experts.
cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t stream);

// The op VmoeRoute: gates f32[G,S,E] -> slot i32[G,S,K], weight f32[G,S,K], src i32[E,M], expert i32[G,S,K],
// which may be null. cudaErrorInvalidValue for a shape that is refused, as those with policies are.
cudaError_t route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert, void* workspace, cudaStream_t stream);

// The op VmoeDispatch: x [tokens,D], src i32[slots] -> buf [slots,D], zero rows where src is -1 or no token. A row is
// D * bytes_of(type) bytes.
cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t stream);

// The op VmoeRouteDispatch, VmoeRoute and VmoeDispatch in one: gates f32[G,S,E], x [G,S,D] -> slot i32[G,S,K],
// weight f32[G,S,K], buf [E,M,D].
cudaError_t route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                           int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t stream);

// The op VmoeCombine: out [slots,D] of `type`, slot i32[tokens,K], weight f32[tokens,K] -> y [tokens,D] of `type`, the
// sum over k of weight * out[slot] in float32, rounded once; pairs with slot -1 add nothing, and so do slots past
// `slots`.
cudaError_t combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                    size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream);

}  // namespace vmoe::cuda
