// Runs the program of the gates kernel on the CPU. The memory that it uses checks every access. The Python tests
// call this library.
#include <cstdint>

#include "cuda/gate_phases.h"
#include "watched_block.h"
#include "watched_memory.h"

struct GatesCall {
  int64_t tokens, hidden, experts;
  int64_t wide;           // use 16-byte words, not single numbers
  int64_t few;            // use the program that supports at most 32 experts
  int64_t seed;           // seed for the random order of lanes and blocks
  int64_t lost_distance;  // exchanges at this lane distance wrongly return the lane's own value; 0: none does
  const void* x;
  const void* router;
  float* gates;
};

namespace {

using vmoe::cuda::BlockPlace;
using vmoe::cuda::GateShape;
using vmoe::cuda::kGateLanes;
using vmoe::cuda::kGateTokens;
using watched::Array;
using watched::Machine;
using watched::Memory;

template <uint32_t kRounds, class Word>
void run_as(const GatesCall& call, Machine& machine) {
  const auto tokens = static_cast<size_t>(call.tokens);
  const size_t words = static_cast<size_t>(call.hidden) * sizeof(float) / sizeof(Word);
  const auto experts = static_cast<size_t>(call.experts);
  const GateShape shape{static_cast<uint32_t>(tokens), static_cast<uint32_t>(call.hidden),
                        static_cast<uint32_t>(experts)};
  watched::Clock* const clock = &machine.device_clock();
  Array<Word> x("x", clock, static_cast<const Word*>(call.x), tokens * words);
  Array<Word> router("router", clock, static_cast<const Word*>(call.router),
                     static_cast<size_t>(call.hidden) * experts * sizeof(float) / sizeof(Word));
  Array<float> gates("gates", clock, tokens * experts);
  const auto blocks = static_cast<uint32_t>((tokens + kGateTokens - 1) / kGateTokens);
  machine.launch(blocks, 1, kGateLanes, [&](const Machine& block, const BlockPlace& place) {
    block.run_team_phase(kGateLanes, [&](const watched::Team& team) {
      vmoe::cuda::compute_gates<kRounds>(team, shape, static_cast<size_t>(place.x) * kGateTokens, Memory<Word>{&x},
                                         Memory<Word>{&router}, Memory<float>{&gates});
    });
  });
  gates.copy_to(call.gates);
}

template <class Word>
void run_words(const GatesCall& call, Machine& machine) {
  call.few != 0 ? run_as<4, Word>(call, machine) : run_as<vmoe::cuda::kMostGateRounds, Word>(call, machine);
}

}  // namespace

extern "C" {

// Runs one call. If there are faults, writes a message about the first one to `fault`.
void gates_run(const GatesCall* call, char* fault, size_t fault_bytes) {
  Machine machine(static_cast<uint64_t>(call->seed), -1, call->lost_distance);
  call->wide != 0 ? run_words<vmoe::cuda::Word16>(*call, machine) : run_words<float>(*call, machine);
  machine.tell(fault, fault_bytes);
}

// Computes exp(x) for `count` numbers, each of which is zero or negative.
void gates_exp(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = vmoe::cuda::exp_of_negative(x[i]);
}
}
