// The kernels by themselves: 8 callers at once, each with workers of its own, on shared weights. Answers must be those
// of a single thread, bit for bit; the thread sanitizer sees every access, as nothing here is foreign code.
//
//   core_threads [race]
//
// With `race` the callers also write one variable without a lock: what a sanitizer that works must report.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "core/attention.h"
#include "core/sparse_mlp.h"

namespace {

constexpr size_t kCallers = 8, kWorkers = 3, kRounds = 6;
constexpr size_t kGroups = 2, kTokens = 37, kHidden = 33, kExperts = 5, kExpertHidden = 70, kHeads = 3, kChoices = 2;

// Runs the tasks of one ParallelFor on new threads.
vmoe::TaskRunner ThreadsRunner() {
  return {nullptr, [](void*, size_t count, vmoe::TaskRunner::Task task, void* context) {
            std::atomic<size_t> next{0};
            const auto work = [&] {
              for (size_t i = next++; i < count; i = next++) task(context, i);
            };
            std::vector<std::thread> workers;
            for (size_t i = 0; i < kWorkers; ++i) workers.emplace_back(work);
            for (std::thread& worker : workers) worker.join();
          }};
}

std::vector<float> Numbers(size_t count, unsigned seed) {
  std::vector<float> numbers(count);
  for (float& number : numbers) {
    seed = seed * 1664525u + 1013904223u;
    number = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) / (1 << 24);
  }
  return numbers;
}

// What one caller computes: an MoE layer on its own tokens and settings, then attention.
std::vector<float> Compute(const vmoe::Kernels& kernels, bool bf16, unsigned caller, const vmoe::TaskRunner& runner) {
  const auto router = Numbers(kHidden * kExperts, 1);
  const auto w1 = Numbers(kExperts * kHidden * kExpertHidden, 2), w2 = Numbers(w1.size(), 3);
  const auto b1 = Numbers(kExperts * kExpertHidden, 4), b2 = Numbers(kExperts * kHidden, 5);
  std::vector<vmoe::Bf16> narrow1, narrow2;
  for (float weight : w1) narrow1.push_back(vmoe::ToBf16(weight));
  for (float weight : w2) narrow2.push_back(vmoe::ToBf16(weight));
  const void* stored1 = bf16 ? static_cast<const void*>(narrow1.data()) : w1.data();
  const void* stored2 = bf16 ? static_cast<const void*>(narrow2.data()) : w2.data();
  const auto type = bf16 ? vmoe::ElementType::kBfloat16 : vmoe::ElementType::kFloat32;
  // All callers bring the same weights, so that they share, pack and free them at once.
  vmoe::SparseMlpWeights weights;
  weights.router =
      vmoe::PackedWeights::Shared(kernels, {router.data(), vmoe::ElementType::kFloat32, 1, kHidden, kExperts});
  weights.experts.w1 = vmoe::PackedWeights::Shared(kernels, {stored1, type, kExperts, kHidden, kExpertHidden});
  weights.experts.w2 = vmoe::PackedWeights::Shared(kernels, {stored2, type, kExperts, kExpertHidden, kHidden});
  weights.experts.b1 = b1.data();
  weights.experts.b2 = b2.data();
  const size_t tokens = kGroups * kTokens;
  const auto x = Numbers(tokens * kHidden, 6 + caller);
  const vmoe::RoutingShape shape{kGroups, kTokens, kExperts, kChoices, 3 + caller, caller % 2 == 0};
  std::vector<float> answer(tokens * kHidden), weight(tokens * kChoices);
  std::vector<int32_t> slot(tokens * kChoices);
  vmoe::SparseMlp(weights, shape, caller % 3 == 0, x.data(), answer.data(), slot.data(), weight.data(), runner);
  std::vector<float> attended(answer.size());
  vmoe::Attention(kernels, {kGroups, kTokens, kTokens, kHidden, kHeads}, answer.data(), x.data(), answer.data(),
                  attended.data(), runner);
  answer.insert(answer.end(), attended.begin(), attended.end());
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::strcmp(argv[1], "race") == 0;
  vmoe::CpuPath path;
  std::string error;
  if (!vmoe::ChosenCpuPath(&path, &error)) return 2;
  const vmoe::Kernels& kernels = vmoe::KernelsFor(path);
  std::atomic<int> equal{0};
  int unguarded = 0;
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (size_t round = 0; round < kRounds; ++round) {
        const bool bf16 = (caller + round) % 2 == 1;
        const auto alone = Compute(kernels, bf16, static_cast<unsigned>(caller), vmoe::SerialRunner());
        const auto threaded = Compute(kernels, bf16, static_cast<unsigned>(caller), ThreadsRunner());
        equal += std::memcmp(alone.data(), threaded.data(), alone.size() * sizeof(float)) == 0 ? 1 : 0;
        if (race) ++unguarded;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("equal %d of %zu\n", equal.load() + 0 * unguarded, kCallers * kRounds);
  return equal == static_cast<int>(kCallers * kRounds) ? 0 : 1;
}
