// Runs layers on the caller's threads. A layer is a sequence of stages, each of which processes groups of rows.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "core/task_runner.h"

namespace vmoe {

// One step of a layer. `run(group, slot, begin, end)` processes the items `begin` to `end` (exclusive) of a group. It
// may throw std::bad_alloc. A slot is the memory for one group; groups that run at the same time use different slots.
struct Stage {
  size_t items = 0;        // of each group
  size_t least_items = 1;  // minimum per task
  std::function<void(size_t group, size_t slot, size_t begin, size_t end)> run;
  bool uneven = false;  // whether some items take much longer than others; threads then take the fewest items at once
};

// Returns a stage that calls `run`, a member function of `layer`.
template <class Layer>
Stage make_stage(const Layer* layer, size_t items, size_t least_items,
                 void (Layer::*run)(size_t group, size_t slot, size_t begin, size_t end) const) {
  return {items, least_items, [layer, run](auto... part) { (layer->*run)(part...); }};
}

// Returns the number of threads among which layers are split: the number of processors that this process may use, at
// most 64.
size_t stage_threads();

// Returns the number of slots that run_stages() needs for this number of groups.
size_t stage_slots(size_t groups);

// Returns whether run_stages() runs each group on one thread, except for the last few groups, which threads may
// share.
bool groups_run_apart(size_t groups);

// Runs the stages of every group in order. As long as there is at least one group for every thread, each thread runs
// all stages of a group alone. Afterwards, all threads share the remaining groups, and wait for each other at the end
// of each stage. The number of threads does not affect the results. If `needs_tiles` is set, the tile registers of
// each thread are configured. Throws std::bad_alloc.
void run_stages(const TaskRunner& runner, size_t groups, const std::vector<Stage>& stages, bool needs_tiles);

// Does the same with other stages for the last `shared` groups, which all threads share. One thread runs `apart` for
// each of the other groups, and all threads run `together` for the last ones. `shared` is at most the number of slots.
void run_stages(const TaskRunner& runner, size_t groups, const std::vector<Stage>& apart, size_t shared,
                const std::vector<Stage>& together, bool needs_tiles);

}  // namespace vmoe
