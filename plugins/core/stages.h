// Layers as stages over groups of rows, on the caller's threads.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "core/task_runner.h"

namespace vmoe {

// One step of a layer. `run(group, slot, begin, end)` processes the items `begin` to `end` of a group. It may throw
// std::bad_alloc. Groups that run at the same time have different slots.
struct Stage {
  size_t items = 0;        // of each group
  size_t least_items = 1;  // minimum per task
  std::function<void(size_t group, size_t slot, size_t begin, size_t end)> run;
};

// A stage that calls a member function of a layer.
template <class Layer>
Stage make_stage(const Layer* layer, size_t items, size_t least_items,
                 void (Layer::*run)(size_t group, size_t slot, size_t begin, size_t end) const) {
  return {items, least_items, [layer, run](auto... part) { (layer->*run)(part...); }};
}

// The number of threads that layers are split for: the processors that this process may use.
size_t stage_threads();

// The number of slots that run_stages needs.
size_t stage_slots(size_t groups);

// Whether run_stages gives each group to one thread, except for the last few groups.
bool groups_run_apart(size_t groups);

// Runs the stages of every group in order. While there is a group for every thread, one thread runs all stages of a
// group. All threads share the remaining groups, and wait for each other at the end of each stage. The threads do not
// affect the results. With `needs_tiles`, configures the tile registers of each thread. Throws std::bad_alloc.
void run_stages(const TaskRunner& runner, size_t groups, const std::vector<Stage>& stages, bool needs_tiles);

}  // namespace vmoe
