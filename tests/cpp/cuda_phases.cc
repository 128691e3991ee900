// Runs the programs of the routing, dispatch and combine kernels on the CPU. They have the same threads, blocks and
// launches as on the GPU, and the memory checks every access. The Python tests call this library.
#include <cstdint>

#include "cuda/limits.h"
#include "cuda/route_plan.h"
#include "cuda/route_program.h"
#include "watched_block.h"
#include "watched_memory.h"

struct PhasesCall {
  int64_t groups, tokens, experts, choices, capacity, batch_priority;
  int64_t fused;          // run route_dispatch, not route; each group must then fit into one tile
  int64_t parts;          // number of blocks that share one group; used only by the fused program
  int64_t rows;           // grid rows, at most one per group; row r processes groups r, r + rows, r + 2 rows, ...
  int64_t words;          // 16-byte words per row
  int64_t seed;           // seed for the random order of threads and blocks
  int64_t lost_barrier;   // the phase whose following barrier is omitted; -1 for none
  int64_t lost_distance;  // exchanges at this lane distance wrongly return the lane's own value; 0: none does
  const float* gates;
  const void* x;
  int32_t* slot;
  float* weight;
  int32_t* src;
  int32_t* expert;
  void* buf;
};

struct CombineCall {
  int64_t type;  // 0: float32, 1: float16, 2: bfloat16
  int64_t wide;
  int64_t slots, tokens, choices, hidden;
  int64_t seed;
  const void* out;
  const int32_t* slot;
  const float* weight;
  void* y;
};

namespace {

using vmoe::Bfloat16;
using vmoe::Float16;
using vmoe::RoutingShape;
using vmoe::cuda::BlockPlace;
using vmoe::cuda::Groups;
using vmoe::cuda::Key;
using vmoe::cuda::RoutePlan;
using vmoe::cuda::Word16;
using watched::Array;
using watched::Clock;
using watched::Machine;
using watched::Memory;

constexpr uint32_t kLanes = 32;

template <class GateWord>
void run_as(const PhasesCall& call, const RoutingShape& shape, Machine& machine) {
  const RoutePlan plan = vmoe::cuda::plan_route(shape);
  const Groups& groups = plan.groups;
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  const size_t places = shape.experts * shape.slots();
  const size_t tiles = shape.groups * groups.tiles;
  const auto threads = uint32_t{plan.threads}, rows = static_cast<uint32_t>(call.rows);
  const auto words = static_cast<size_t>(call.words);
  Clock* const device = &machine.device_clock();
  Clock* const on_chip = &machine.shared_clock();

  Array<GateWord> gates("gates", device, reinterpret_cast<const GateWord*>(call.gates),
                        tokens * shape.experts * sizeof(float) / sizeof(GateWord));
  Array<float> weight("weight", device, pairs);
  Array<int32_t> slot("slot", device, pairs);
  Array<int32_t> src("src", device, places);
  Array<int32_t> expert("expert", device, pairs);
  Array<Key> keys("keys", on_chip, groups.tile_stride());
  Array<Key> other("keys", on_chip, groups.tile_stride());
  Array<uint32_t> offsets("offsets", on_chip, shape.experts + 1);
  const vmoe::cuda::TileMemory<Memory<Key>, Memory<uint32_t>> shared{{&keys}, {&other}, {&offsets}};
  const auto new_block = [&] {
    keys.forget();
    other.forget();
    offsets.forget();
  };
  const Memory<GateWord> gate_memory{&gates};
  const Memory<float> weight_memory{&weight};
  const Memory<int32_t> slot_memory{&slot};
  const Memory<int32_t> src_memory{&src};
  const Memory<int32_t> expert_memory{&expert};

  if (plan.single_tile() && call.fused != 0) {
    Array<Word16> x("x", device, static_cast<const Word16*>(call.x), tokens * words);
    Array<Word16> buf("buf", device, places * words);
    machine.launch(static_cast<uint32_t>(call.parts), rows, threads,
                   [&](const Machine& block, const BlockPlace& place) {
                     new_block();
                     vmoe::cuda::route_and_dispatch(block, place, groups, gate_memory, weight_memory, slot_memory,
                                                    words, Memory<Word16>{&x}, Memory<Word16>{&buf}, shared);
                   });
    buf.copy_to(static_cast<Word16*>(call.buf));
  } else if (plan.single_tile()) {
    machine.launch(groups.count, 1, threads, [&](const Machine& block, const BlockPlace& place) {
      new_block();
      vmoe::cuda::route_group(block, place, groups, gate_memory, weight_memory, expert_memory, slot_memory, src_memory,
                              shared);
    });
    src.copy_to(call.src);
  } else {
    Array<Key> tile_keys("tile_keys", device, tiles * groups.tile_stride());
    Array<uint32_t> tile_offsets("tile_offsets", device, tiles * (shape.experts + 1));
    machine.launch(groups.tiles, rows, threads, [&](const Machine& block, const BlockPlace& place) {
      new_block();
      vmoe::cuda::sort_tiles(block, place, groups, gate_memory, weight_memory, expert_memory, src_memory,
                             Memory<Key>{&tile_keys}, Memory<uint32_t>{&tile_offsets}, shared);
    });
    const size_t parts = (shape.tokens * shape.choices + vmoe::cuda::kRankThreads - 1) / vmoe::cuda::kRankThreads;
    machine.launch(static_cast<uint32_t>(parts), rows, vmoe::cuda::kRankThreads,
                   [&](const Machine& block, const BlockPlace& place) {
                     vmoe::cuda::rank_pairs(block, place, groups, Memory<Key>{&tile_keys},
                                            Memory<uint32_t>{&tile_offsets}, slot_memory, src_memory);
                   });
    src.copy_to(call.src);
  }
  slot.copy_to(call.slot);
  if (call.fused == 0) expert.copy_to(call.expert);
  weight.copy_to(call.weight);
}

// If a token's gates fill whole 16-byte words, uses such words; otherwise uses single gates. Launches on a GPU choose
// in the same way.
void run(const PhasesCall& call, Machine& machine) {
  const RoutingShape shape{static_cast<size_t>(call.groups),   static_cast<size_t>(call.tokens),
                           static_cast<size_t>(call.experts),  static_cast<size_t>(call.choices),
                           static_cast<size_t>(call.capacity), call.batch_priority != 0};
  vmoe::cuda::are_words(call.gates, shape.experts * sizeof(float)) ? run_as<Word16>(call, shape, machine)
                                                                   : run_as<float>(call, shape, machine);
}

template <class T, class Word>
void combine_words(const CombineCall& call, Machine& machine) {
  Clock* const clock = &machine.device_clock();
  const size_t words = static_cast<size_t>(call.hidden) * sizeof(T) / sizeof(Word);
  const auto pairs = static_cast<size_t>(call.tokens * call.choices);
  Array<Word> out("out", clock, static_cast<const Word*>(call.out), static_cast<size_t>(call.slots) * words);
  Array<int32_t> slot("slot", clock, call.slot, pairs);
  Array<float> weight("weight", clock, call.weight, pairs);
  Array<Word> y("y", clock, static_cast<size_t>(call.tokens) * words);
  machine.launch(static_cast<uint32_t>(call.tokens), 1, kLanes, [&](const Machine& block, const BlockPlace& place) {
    block.run_phase([&](uint32_t lane, uint32_t lanes) {
      vmoe::cuda::combine_row<T>(lane, lanes, words, place.x, static_cast<uint32_t>(call.choices),
                                 static_cast<size_t>(call.slots), Memory<Word>{&out}, Memory<int32_t>{&slot},
                                 Memory<float>{&weight}, Memory<Word>{&y});
    });
  });
  y.copy_to(static_cast<Word*>(call.y));
}

template <class T>
void combine_as(const CombineCall& call, Machine& machine) {
  call.wide != 0 ? combine_words<T, Word16>(call, machine) : combine_words<T, T>(call, machine);
}

}  // namespace

extern "C" {

// Runs one call and returns the number of phases in it. If there are faults, writes a message about the first one to
// `fault`.
int64_t phases_run(const PhasesCall* call, char* fault, size_t fault_bytes) {
  Machine machine(static_cast<uint64_t>(call->seed), call->lost_barrier, call->lost_distance);
  run(*call, machine);
  machine.tell(fault, fault_bytes);
  return machine.phases();
}

// Runs combine with the rows in a random order. If `wide` is set, moves words of 16 bytes; otherwise moves single
// elements.
void phases_combine(const CombineCall* call, char* fault, size_t fault_bytes) {
  Machine machine(static_cast<uint64_t>(call->seed), -1, 0);
  const auto combine = call->type == 0   ? combine_as<float>
                       : call->type == 1 ? combine_as<Float16>
                                         : combine_as<Bfloat16>;
  combine(*call, machine);
  machine.tell(fault, fault_bytes);
}

// Dispatches rows in a random order.
void phases_dispatch(const void* x, int64_t tokens, const int32_t* src, int64_t slots, int64_t words, void* buf,
                     int64_t seed, char* fault, size_t fault_bytes) {
  Machine machine(static_cast<uint64_t>(seed), -1, 0);
  Clock* const clock = &machine.device_clock();
  Array<Word16> from("x", clock, static_cast<const Word16*>(x), static_cast<size_t>(tokens * words));
  Array<int32_t> sources("src", clock, src, static_cast<size_t>(slots));
  Array<Word16> to("buf", clock, static_cast<size_t>(slots * words));
  machine.launch(static_cast<uint32_t>(slots), 1, kLanes, [&](const Machine& block, const BlockPlace& place) {
    block.run_phase([&](uint32_t lane, uint32_t lanes) {
      vmoe::cuda::dispatch_row(lane, lanes, static_cast<size_t>(words), static_cast<size_t>(tokens), place.x,
                               Memory<int32_t>{&sources}, Memory<Word16>{&from}, Memory<Word16>{&to});
    });
  });
  to.copy_to(static_cast<Word16*>(buf));
  machine.tell(fault, fault_bytes);
}
}
