#include "core/stages.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>

#include "core/amx.h"
#include "core/tiles.h"

namespace vmoe {
namespace {

constexpr size_t kMostThreads = 64;
// A stage is split into this many pieces per thread. Each free thread takes the next piece, so a thread that starts
// late costs little time.
constexpr size_t kTasksPerThread = 1;
// How many times a waiting thread checks whether the work is done before it begins to yield its processor.
constexpr size_t kLooks = 4000;

size_t count_processors() {
#if defined(__linux__)
  // Counts the processors that this process may use.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const auto count = static_cast<size_t>(CPU_COUNT(&set));
#else
  const size_t count = std::thread::hardware_concurrency();
#endif
  return std::clamp<size_t>(count, 1, kMostThreads);
}

void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // `isb` waits for tens of cycles, whereas `yield` does nothing on most processors
#endif
}

// A stage that several threads share. Each thread takes the next piece of work until none is left. A thread that comes
// late therefore finds nothing to do.
struct SharedStage {
  size_t tasks = 0;
  size_t tasks_of_group = 1;
  alignas(64) std::atomic<size_t> next{0};
  alignas(64) std::atomic<size_t> done{0};

  // Waits until all pieces are done. This cannot hang, because the thread that took a piece also completes it.
  void wait_for_all() const {
    for (size_t looks = 0; done.load(std::memory_order_acquire) < tasks; ++looks) {
      looks < kLooks ? pause_thread() : static_cast<void>(sched_yield());
    }
  }
};

class Run {
 public:
  Run(size_t first_group, size_t groups, const std::vector<Stage>& stages, bool needs_tiles)
      : first_group_(first_group), groups_(groups), stages_(stages), needs_tiles_(needs_tiles) {}

  void run_apart(size_t slot) {
    const TileConfigurationScope tiles(needs_tiles_);
    for (size_t group; (group = next_group_.fetch_add(1)) < groups_;) {
      for (const Stage& stage : stages_) run_part(stage, first_group_ + group, slot, 0, stage.items);
    }
  }

  void prepare_to_share(size_t threads) {
    shared_ = std::make_unique<SharedStage[]>(stages_.size());
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = stages_[i];
      const size_t most = std::max<size_t>(stage.items / std::max<size_t>(stage.least_items, 1), 1);
      const size_t even = divide_up(threads * kTasksPerThread, groups_);
      shared_[i].tasks_of_group = stage.uneven ? most : std::min(most, even);
      shared_[i].tasks = groups_ * shared_[i].tasks_of_group;
    }
  }

  void run_together() {
    const TileConfigurationScope tiles(needs_tiles_);
    for (size_t i = 0; i < stages_.size(); ++i) {
      SharedStage& shared = shared_[i];
      const size_t parts = shared.tasks_of_group;
      for (size_t task; (task = shared.next.fetch_add(1)) < shared.tasks;) {
        const size_t part = task % parts;
        const size_t items = stages_[i].items;
        const size_t group = task / parts;
        run_part(stages_[i], first_group_ + group, group, items * part / parts, items * (part + 1) / parts);
        shared.done.fetch_add(1, std::memory_order_acq_rel);
      }
      shared.wait_for_all();
    }
  }

  bool out_of_memory() const { return out_of_memory_; }

 private:
  const size_t first_group_, groups_;
  const std::vector<Stage>& stages_;
  const bool needs_tiles_;
  std::atomic<size_t> next_group_{0};
  std::unique_ptr<SharedStage[]> shared_;
  std::atomic<bool> out_of_memory_{false};

  void run_part(const Stage& stage, size_t group, size_t slot, size_t begin, size_t end) {
    if (begin >= end || out_of_memory_) return;
    try {
      stage.run(group, slot, begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory_ = true;
    }
  }
};

}  // namespace

size_t stage_threads() {
  static const size_t threads = count_processors();
  return threads;
}

size_t stage_slots(size_t groups) { return std::min(groups, stage_threads()); }

bool groups_run_apart(size_t groups) { return groups >= stage_threads(); }

void run_stages(const TaskRunner& runner, size_t groups, const std::vector<Stage>& stages, bool needs_tiles) {
  // If a layer has only one stage, sharing the last groups among threads gains nothing, so each group runs on one
  // thread.
  const size_t left = groups_run_apart(groups) && stages.size() == 1 ? 0 : groups % stage_threads();
  run_stages(runner, groups, stages, left, stages, needs_tiles);
}

void run_stages(const TaskRunner& runner, size_t groups, const std::vector<Stage>& apart_stages, size_t shared,
                const std::vector<Stage>& together_stages, bool needs_tiles) {
  Run apart(0, groups - shared, apart_stages, needs_tiles);
  Run together(groups - shared, shared, together_stages, needs_tiles);
  if (shared < groups) parallel_for(runner, stage_slots(groups), [&](size_t slot) { apart.run_apart(slot); });
  if (shared > 0) {
    together.prepare_to_share(stage_threads());
    parallel_for(runner, stage_threads(), [&](size_t) { together.run_together(); });
  }
  if (apart.out_of_memory() || together.out_of_memory()) throw std::bad_alloc();
}

}  // namespace vmoe
