// The layers by themselves: 8 callers at once, each with workers of its own, on shared weights of every type. Answers
// must be those of a single thread, bit for bit; the thread sanitizer sees every access, as nothing here is foreign
// code.
//
//   core_threads [race]
//
// With `race` the callers also write one variable without a lock: what a sanitizer that works must report.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/attention.h"
#include "core/attention_block.h"
#include "core/bfloat16.h"
#include "core/choose_tokens.h"
#include "core/expert_block.h"
#include "core/linear.h"
#include "core/router_block.h"
#include "core/soft_moe.h"
#include "core/sparse_mlp.h"
#include "core/tile_attention.h"

namespace {

using vmoe::ElementType;
using vmoe::Kernels;
using vmoe::PackedWeights;
using vmoe::StoredWeights;
using vmoe::TaskRunner;
using Floats = std::vector<float>;

constexpr size_t kCallers = 8, kWorkers = 3, kRounds = 6;
constexpr size_t kGroups = 2, kTokens = 37, kRows = kGroups * kTokens;
constexpr size_t kHidden = 33, kHeads = 3, kExperts = 5, kExpertHidden = 128, kChoices = 2;
constexpr ElementType kTypes[] = {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kInt8};

// Runs the tasks of one ParallelFor on new threads.
TaskRunner ThreadsRunner() {
  return {nullptr, [](void*, size_t count, TaskRunner::Task task, void* context) {
            std::atomic<size_t> next{0};
            const auto work = [&] {
              for (size_t i = next++; i < count; i = next++) task(context, i);
            };
            std::vector<std::thread> workers;
            workers.reserve(kWorkers);
            for (size_t i = 0; i < kWorkers; ++i) workers.emplace_back(work);
            for (std::thread& worker : workers) worker.join();
          }};
}

Floats Numbers(size_t count, unsigned seed) {
  Floats numbers(count);
  for (float& number : numbers) {
    seed = seed * 1664525U + 1013904223U;
    number = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) / (1 << 24);
  }
  return numbers;
}

// A weight matrix for each expert, or one, with what belongs to its columns.
struct Weights {
  std::shared_ptr<const PackedWeights> packed;
  Floats bias, scale;

  vmoe::LinearWeights linear() const { return {packed.get(), bias.data(), scale.data()}; }
};

// `form` says how many there are of what size, and how they are packed. All callers bring the same weights, so that
// they share, pack and free them at once.
Weights MakeWeights(const Kernels& kernels, ElementType type, StoredWeights form, unsigned seed) {
  const Floats values = Numbers(form.elements(), seed);
  std::vector<vmoe::Bf16> narrow;
  std::vector<int8_t> whole;
  form.type = type;
  form.data = values.data();
  if (type == ElementType::kBfloat16) {
    for (float value : values) narrow.push_back(vmoe::ToBf16(value));
    form.data = narrow.data();
  } else if (type == ElementType::kInt8) {
    for (float value : values) whole.push_back(static_cast<int8_t>(value * 254));
    form.data = whole.data();
  }
  const size_t columns = form.matrices * form.columns;
  Weights weights{PackedWeights::Shared(kernels, form), Numbers(columns, seed + 1), Numbers(columns, seed + 2)};
  for (float& scale : weights.scale) scale /= 127;
  return weights;
}

StoredWeights Form(size_t matrices, size_t depth, size_t columns) {
  StoredWeights form;
  form.matrices = matrices;
  form.depth = depth;
  form.columns = columns;
  return form;
}

struct MlpWeights {
  Weights first, second;
  size_t hidden_chunk = 0;

  MlpWeights(const Kernels& kernels, ElementType type, size_t experts)
      : first(MakeWeights(kernels, type, Form(experts, kHidden, kExpertHidden), 10)),
        hidden_chunk(type == ElementType::kInt8 ? kExpertHidden / 2 : 0) {
    StoredWeights form = Form(experts, kExpertHidden, kHidden);
    form.depth_chunk = hidden_chunk;
    second = MakeWeights(kernels, type, form, 20);
  }

  vmoe::ExpertWeights experts() const {
    vmoe::ExpertWeights experts;
    experts.w1 = first.packed;
    experts.b1 = first.bias.data();
    experts.w1_scale = first.scale.data();
    experts.w2 = second.packed;
    experts.b2 = second.bias.data();
    experts.w2_scale = second.scale.data();
    experts.hidden_chunk = hidden_chunk;
    return experts;
  }
};

// What one caller computes with weights of a type: every layer in turn, on its own tokens and settings.
class Caller {
 public:
  Caller(const Kernels& kernels, ElementType type, unsigned number, const TaskRunner& runner)
      : kernels_(kernels),
        type_(type),
        rounds_(number % 3 == 0),
        runner_(runner),
        shape_{kGroups, kTokens, kExperts, kChoices, 3 + number, number % 2 == 0},
        policies_(shape_),
        x_(Numbers(kRows * kHidden, 6 + number)),
        norm_scale_(Numbers(kHidden, 7)),
        norm_bias_(Numbers(kHidden, 8)) {
    policies_.pool = number % 4 > 1;
    if (number % 3 == 1) policies_.max_experts = kExperts - 2;
  }

  Floats Compute() {
    DenseLayers();
    Attentions();
    AttentionBlock();
    Experts();
    Blocks();
    ExpertsThatChoose();
    SoftExperts();
    return std::move(answer_);
  }

 private:
  const Kernels& kernels_;
  ElementType type_;
  bool rounds_;  // to bfloat16 on the way to the experts
  TaskRunner runner_;
  vmoe::RoutingShape shape_, policies_;
  Floats x_, norm_scale_, norm_bias_;
  Floats answer_;

  vmoe::LayerNorm Norm() const { return {norm_scale_.data(), norm_bias_.data()}; }
  // Room for what a layer gives, for each token.
  float* Give(size_t columns = kHidden) {
    answer_.resize(answer_.size() + kRows * columns);
    return answer_.data() + answer_.size() - kRows * columns;
  }

  void DenseLayers() {
    constexpr size_t kColumns = 70;
    const Weights w = MakeWeights(kernels_, type_, Form(1, kHidden, kColumns), 30);
    vmoe::Linear(w.linear(), x_.data(), kRows, Give(kColumns), runner_);
    const MlpWeights mlp(kernels_, type_, 1);
    vmoe::DenseMlp(mlp.experts(), {}, x_.data(), kRows, false, Give(), runner_);
  }

  void Attentions() {
    const vmoe::AttentionShape shape{kGroups, kTokens, kTokens, kHidden, kHeads};
    const Floats k = Numbers(x_.size(), 40), v = Numbers(x_.size(), 41);
    vmoe::Attention(kernels_, shape, x_.data(), k.data(), v.data(), Give(), runner_);
    vmoe::TileAttention(vmoe::TileKernelsFor(kernels_.path), shape, x_.data(), k.data(), v.data(), Give(), runner_);
  }

  void AttentionBlock() {
    StoredWeights by_column = Form(1, kHidden, kHidden), by_depth = by_column;
    by_column.column_parts = by_depth.depth_parts = kHeads;
    const Weights query = MakeWeights(kernels_, type_, by_column, 50),
                  key = MakeWeights(kernels_, type_, by_column, 53),
                  value = MakeWeights(kernels_, type_, by_column, 56), out = MakeWeights(kernels_, type_, by_depth, 59);
    vmoe::AttentionBlockWeights weights;
    weights.query = query.linear();
    weights.key = key.linear();
    weights.value = value.linear();
    weights.out = out.linear();
    weights.norm = Norm();
    weights.heads = kHeads;
    vmoe::AttentionBlock(weights, kGroups, kTokens, x_.data(), Give(), runner_);
  }

  void Experts() {
    const MlpWeights mlp(kernels_, type_, kExperts);
    vmoe::SparseMlpWeights weights;
    weights.router = Router();
    weights.experts = mlp.experts();
    Floats weight(kRows * kChoices);
    std::vector<int32_t> slot(kRows * kChoices);
    vmoe::SparseMlp(weights, shape_, rounds_, x_.data(), Give(), slot.data(), weight.data(), runner_);
    answer_.insert(answer_.end(), weight.begin(), weight.end());
    answer_.insert(answer_.end(), slot.begin(), slot.end());
  }

  // The halves of an encoder block with an MLP, dense and sparse, each in place.
  void Blocks() {
    Floats y = x_;
    const MlpWeights dense(kernels_, type_, 1);
    vmoe::DenseMlp(dense.experts(), Norm(), y.data(), kRows, true, y.data(), runner_);
    Floats weight(kRows * kChoices);
    std::vector<int32_t> slot(kRows * kChoices), expert(slot.size()), src;
    vmoe::ExpertBlockRouting routing;
    const auto make_src = [&](size_t places) {
      routing.places = places;
      src.resize(kExperts * places);
      return src.data();
    };
    vmoe::RouterBlock(*Router(), Norm(), policies_, y.data(), slot.data(), weight.data(), make_src, expert.data(),
                      runner_);
    routing.tokens = kRows;
    routing.choices = kChoices;
    routing.slot = slot.data();
    routing.weight = weight.data();
    routing.src = src.data();
    const MlpWeights sparse(kernels_, type_, kExperts);
    vmoe::ExpertBlock(sparse.experts(), Norm(), routing, rounds_, y.data(), y.data(), runner_);
    answer_.insert(answer_.end(), y.begin(), y.end());
    answer_.insert(answer_.end(), slot.begin(), slot.end());
    answer_.insert(answer_.end(), expert.begin(), expert.end());
  }

  void ExpertsThatChoose() {
    const Floats gates = Numbers(kRows * kExperts, 80);
    std::vector<int32_t> slot(kRows * kExperts), src(kExperts * shape_.places());
    vmoe::ChooseTokens(shape_, gates.data(), slot.data(), src.data(), runner_);
    answer_.insert(answer_.end(), slot.begin(), slot.end());
    answer_.insert(answer_.end(), src.begin(), src.end());
  }

  // The slots go back to their tokens as they are.
  void SoftExperts() {
    constexpr size_t kSlots = 7;
    const vmoe::SoftShape shape{kGroups, kTokens, kHidden, kExperts, kSlots};
    const Floats mu = Numbers(kHidden * shape.all_slots(), 90);
    const auto slots = vmoe::PackSlots(kernels_, mu.data(), kHidden, shape.all_slots());
    Floats buf(kGroups * shape.all_slots() * kHidden);
    Floats dispatch(kRows * shape.all_slots()), combine(dispatch.size());
    vmoe::SoftRouter(*slots, 3, shape, x_.data(), dispatch.data(), combine.data(), runner_);
    vmoe::SoftDispatch(kernels_, shape, rounds_, x_.data(), dispatch.data(), buf.data(), runner_);
    vmoe::SoftCombine(kernels_, shape, rounds_, buf.data(), combine.data(), Give(), runner_);
  }

  std::shared_ptr<const PackedWeights> Router() const {
    return MakeWeights(kernels_, ElementType::kFloat32, Form(1, kHidden, kExperts), 70).packed;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::strcmp(argv[1], "race") == 0;
  vmoe::CpuPath path;
  std::string error;
  if (!vmoe::ChosenCpuPath(&path, &error)) return 2;
  const Kernels& kernels = vmoe::KernelsFor(path);
  std::atomic<int> equal{0};
  int unguarded = 0;
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  for (unsigned caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const ElementType type = kTypes[(caller + round) % std::size(kTypes)];
        const Floats alone = Caller(kernels, type, caller, vmoe::SerialRunner()).Compute();
        const Floats threaded = Caller(kernels, type, caller, ThreadsRunner()).Compute();
        equal += std::memcmp(alone.data(), threaded.data(), alone.size() * sizeof(float)) == 0 ? 1 : 0;
        if (race) ++unguarded;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("equal %d of %zu\n", equal.load() + 0 * unguarded, kCallers * kRounds);
  return equal == static_cast<int>(kCallers * kRounds) ? 0 : 1;
}
