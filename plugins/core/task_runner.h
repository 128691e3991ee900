// Runs the kernels on the caller's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <new>

namespace vmoe {

// Calls `task(context, index)` for every index below `count`, on any threads, and returns when all calls have returned.
struct TaskRunner {
  using Task = void (*)(void* context, size_t index);

  void* pool;
  void (*run)(void* pool, size_t count, Task task, void* context);
};

// Runs `body(index)` for every index below `count`. If `body` throws std::bad_alloc, the exception is rethrown after
// the last index.
template <class Body>
void parallel_for(const TaskRunner& runner, size_t count, const Body& body) {
  if (count == 0) return;
  if (count == 1) {
    body(size_t{0});
    return;
  }
  struct Job {
    const Body& body;
    std::atomic<bool> out_of_memory{false};
  } job{body};
  const auto run_one = [](void* context, size_t index) {
    auto& mine = *static_cast<Job*>(context);
    try {
      mine.body(index);
    } catch (const std::bad_alloc&) {
      mine.out_of_memory = true;
    }
  };
  runner.run(runner.pool, count, run_one, &job);
  if (job.out_of_memory) throw std::bad_alloc();
}

// Splits `rows` rows into blocks and runs `body(first, end)` for each block, where `end` is exclusive. Use this
// instead of parallel_for if each row takes little time.
template <class Body>
void parallel_for_rows(const TaskRunner& runner, size_t rows, const Body& body) {
  constexpr size_t kRowsPerTask = 32;
  parallel_for(runner, (rows + kRowsPerTask - 1) / kRowsPerTask,
               [&](size_t task) { body(task * kRowsPerTask, std::min(rows, (task + 1) * kRowsPerTask)); });
}

// Returns a runner that does all work on the calling thread.
inline TaskRunner serial_runner() {
  return {nullptr, [](void*, size_t count, TaskRunner::Task task, void* context) {
            for (size_t i = 0; i < count; ++i) task(context, i);
          }};
}

}  // namespace vmoe
