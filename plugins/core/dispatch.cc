#include "core/dispatch.h"

#include <cstring>

#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {

void Dispatch(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf, const TaskRunner& runner) {
  ParallelForRows(runner, places, [&](size_t first, size_t end) {
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

void RouteDispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x, size_t row_bytes,
                   int32_t* slot, void* weight, void* buf, const TaskRunner& runner) {
  const size_t places = shape.experts * shape.places();
  Workspace workspace;
  workspace.Reserve(Workspace::Bytes<int32_t>(places));
  auto* src = workspace.Take<int32_t>(places);
  Route(shape, gate_type, gates, slot, weight, src, runner);
  Dispatch(x, src, places, row_bytes, buf, runner);
}

}  // namespace vmoe
