// Tokens to the places that routing gave them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// The op VmoeDispatch: x [tokens,D], src i32[places] -> buf [places,D], zero rows where src is -1. A row of D values
// has `row_bytes` bytes, which are copied as they are.
void dispatch(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf, const TaskRunner& runner);

// The op VmoeRouteDispatch, VmoeRoute and VmoeDispatch in one: gates [G,S,E] of `gate_type`, x [G,S,D] -> slot
// i32[G,S,K], weight [G,S,K] of `gate_type`, buf [E,M,D]. Throws std::bad_alloc.
void route_dispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x,
                    size_t row_bytes, int32_t* slot, void* weight, void* buf, const TaskRunner& runner);

}  // namespace vmoe
