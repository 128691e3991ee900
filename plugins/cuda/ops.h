// Gates, routing, dispatch and combine on a GPU. A call only puts work on its stream. It does not allocate memory or
// synchronize, and it makes the same launches each time. Calls may therefore be captured in a CUDA graph. Slots,
// sources and weights have the same bits as the results of core/routing.h. In float32, the results of combine have the
// same bits as the results of core/dispatch.h.
//
// All tensors are in device memory, dense and row-major. Without a usable device, a call returns CUDA's error and does
// nothing else.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "cuda/limits.h"

namespace vmoe::cuda {

// VmoeGates: x f32[tokens,D], router f32[D,E] -> gates f32[tokens,E] = softmax(x . router). The bits of a token's gates
// depend only on that token and the router. Returns cudaErrorInvalidValue if gates_refusal does not return null.
cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t stream);

// VmoeRoute: gates f32[G,S,E] -> slot i32[G,S,K], weight f32[G,S,K], src i32[E,M], expert i32[G,S,K]. M is the number
// of slots per expert in all groups. `expert` may be null if it is not needed. Returns cudaErrorInvalidValue if
// routing_refusal refuses the shape, for example because the shape has policies.
cudaError_t route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert, void* workspace, cudaStream_t stream);

// VmoeDispatch: x [tokens,D], src i32[slots] -> buf [slots,D]. If a slot's element of src is -1 or not a token, the
// slot's row of buf is filled with zeros. `row_bytes` is D times the bytes per element.
cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t stream);

// VmoeRouteDispatch: gates f32[G,S,E], x [G,S,D] -> slot i32[G,S,K], weight f32[G,S,K], buf [E,M,D]. M is the number of
// slots per expert in all groups. This op does the work of VmoeRoute and VmoeDispatch.
cudaError_t route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                           int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t stream);

// VmoeCombine: out [slots,D], slot i32[tokens,K], weight f32[tokens,K] -> y [tokens,D]. The elements of out and y are
// of `type`. A row of y is the sum over k of weight * out[slot], computed in float32 and then rounded once to `type`.
// If a choice's slot is -1, or is `slots` or more, the choice adds nothing to its token's row.
cudaError_t combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                    size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream);

}  // namespace vmoe::cuda
