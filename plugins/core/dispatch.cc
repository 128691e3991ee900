#include "core/dispatch.h"

#include <cstring>

#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {

void dispatch(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf, const TaskRunner& runner) {
  parallel_for_rows(runner, places, [&](size_t first, size_t end) {
    for (size_t place = first; place < end; ++place) {
      char* to = static_cast<char*>(buf) + place * row_bytes;
      if (src[place] < 0) {
        std::memset(to, 0, row_bytes);
      } else {
        std::memcpy(to, static_cast<const char*>(x) + static_cast<size_t>(src[place]) * row_bytes, row_bytes);
      }
    }
  });
}

void route_dispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x,
                    size_t row_bytes, int32_t* slot, void* weight, void* buf, const TaskRunner& runner) {
  const size_t places = shape.experts * shape.places();
  Workspace workspace;
  workspace.reserve(Workspace::bytes_to_take<int32_t>(places));
  auto* src = workspace.take<int32_t>(places);
  route(shape, gate_type, gates, slot, weight, src, runner);
  dispatch(x, src, places, row_bytes, buf, runner);
}

}  // namespace vmoe
