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

// Runs the tasks of one parallel_for on new threads.
TaskRunner threads_runner() {
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

Floats make_numbers(size_t count, unsigned seed) {
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
Weights make_weights(const Kernels& kernels, ElementType type, StoredWeights form, unsigned seed) {
  const Floats values = make_numbers(form.elements(), seed);
  std::vector<vmoe::Bf16> narrow;
  std::vector<int8_t> whole;
  form.type = type;
  form.data = values.data();
  if (type == ElementType::kBfloat16) {
    for (float value : values) narrow.push_back(vmoe::to_bf16(value));
    form.data = narrow.data();
  } else if (type == ElementType::kInt8) {
    for (float value : values) whole.push_back(static_cast<int8_t>(value * 254));
    form.data = whole.data();
  }
  const size_t columns = form.matrices * form.columns;
  Weights weights{PackedWeights::share(kernels, form), make_numbers(columns, seed + 1),
                  make_numbers(columns, seed + 2)};
  for (float& scale : weights.scale) scale /= 127;
  return weights;
}

StoredWeights make_form(size_t matrices, size_t depth, size_t columns) {
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
      : first(make_weights(kernels, type, make_form(experts, kHidden, kExpertHidden), 10)),
        hidden_chunk(type == ElementType::kInt8 ? kExpertHidden / 2 : 0) {
    StoredWeights form = make_form(experts, kExpertHidden, kHidden);
    form.depth_chunk = hidden_chunk;
    second = make_weights(kernels, type, form, 20);
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
        x_(make_numbers(kRows * kHidden, 6 + number)),
        norm_scale_(make_numbers(kHidden, 7)),
        norm_bias_(make_numbers(kHidden, 8)) {
    policies_.pool = number % 4 > 1;
    if (number % 3 == 1) policies_.max_experts = kExperts - 2;
  }

  Floats compute() {
    run_dense_layers();
    run_attentions();
    compute_attention_block();
    run_experts();
    run_blocks();
    run_experts_that_choose();
    run_soft_experts();
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

  vmoe::LayerNorm norm() const { return {norm_scale_.data(), norm_bias_.data()}; }
  // Room for what a layer gives, for each token.
  float* give(size_t columns = kHidden) {
    answer_.resize(answer_.size() + kRows * columns);
    return answer_.data() + answer_.size() - kRows * columns;
  }

  void run_dense_layers() {
    constexpr size_t kColumns = 70;
    const Weights w = make_weights(kernels_, type_, make_form(1, kHidden, kColumns), 30);
    vmoe::compute_linear(w.linear(), x_.data(), kRows, give(kColumns), runner_);
    const MlpWeights mlp(kernels_, type_, 1);
    vmoe::compute_dense_mlp(mlp.experts(), {}, x_.data(), kRows, false, give(), runner_);
  }

  void run_attentions() {
    const vmoe::AttentionShape shape{kGroups, kTokens, kTokens, kHidden, kHeads};
    const Floats k = make_numbers(x_.size(), 40), v = make_numbers(x_.size(), 41);
    vmoe::compute_attention(kernels_, shape, x_.data(), k.data(), v.data(), give(), runner_);
    vmoe::compute_tile_attention(vmoe::tile_kernels_for(kernels_.path), shape, x_.data(), k.data(), v.data(), give(),
                                 runner_);
  }

  void compute_attention_block() {
    StoredWeights by_column = make_form(1, kHidden, kHidden), by_depth = by_column;
    by_column.column_parts = by_depth.depth_parts = kHeads;
    const Weights query = make_weights(kernels_, type_, by_column, 50),
                  key = make_weights(kernels_, type_, by_column, 53),
                  value = make_weights(kernels_, type_, by_column, 56),
                  out = make_weights(kernels_, type_, by_depth, 59);
    vmoe::AttentionBlockWeights weights;
    weights.query = query.linear();
    weights.key = key.linear();
    weights.value = value.linear();
    weights.out = out.linear();
    weights.norm = norm();
    weights.heads = kHeads;
    vmoe::compute_attention_block(weights, kGroups, kTokens, x_.data(), give(), runner_);
  }

  void run_experts() {
    const MlpWeights mlp(kernels_, type_, kExperts);
    vmoe::SparseMlpWeights weights;
    weights.router = make_router();
    weights.experts = mlp.experts();
    Floats weight(kRows * kChoices);
    std::vector<int32_t> slot(kRows * kChoices);
    vmoe::compute_sparse_mlp(weights, shape_, rounds_, x_.data(), give(), slot.data(), weight.data(), runner_);
    answer_.insert(answer_.end(), weight.begin(), weight.end());
    answer_.insert(answer_.end(), slot.begin(), slot.end());
  }

  // The halves of an encoder block with an MLP, dense and sparse, each in place.
  void run_blocks() {
    Floats y = x_;
    const MlpWeights dense(kernels_, type_, 1);
    vmoe::compute_dense_mlp(dense.experts(), norm(), y.data(), kRows, true, y.data(), runner_);
    Floats weight(kRows * kChoices);
    std::vector<int32_t> slot(kRows * kChoices), expert(slot.size()), src;
    vmoe::ExpertBlockRouting routing;
    const auto make_src = [&](size_t places) {
      routing.places = places;
      src.resize(kExperts * places);
      return src.data();
    };
    vmoe::compute_router_block(*make_router(), norm(), policies_, y.data(), slot.data(), weight.data(), make_src,
                               expert.data(), runner_);
    routing.tokens = kRows;
    routing.choices = kChoices;
    routing.slot = slot.data();
    routing.weight = weight.data();
    routing.src = src.data();
    const MlpWeights sparse(kernels_, type_, kExperts);
    vmoe::compute_expert_block(sparse.experts(), norm(), routing, rounds_, y.data(), y.data(), runner_);
    answer_.insert(answer_.end(), y.begin(), y.end());
    answer_.insert(answer_.end(), slot.begin(), slot.end());
    answer_.insert(answer_.end(), expert.begin(), expert.end());
  }

  void run_experts_that_choose() {
    const Floats gates = make_numbers(kRows * kExperts, 80);
    std::vector<int32_t> slot(kRows * kExperts), src(kExperts * shape_.places());
    vmoe::choose_tokens(shape_, gates.data(), slot.data(), src.data(), runner_);
    answer_.insert(answer_.end(), slot.begin(), slot.end());
    answer_.insert(answer_.end(), src.begin(), src.end());
  }

  // The slots go back to their tokens as they are.
  void run_soft_experts() {
    constexpr size_t kSlots = 7;
    const vmoe::SoftShape shape{kGroups, kTokens, kHidden, kExperts, kSlots};
    const Floats mu = make_numbers(kHidden * shape.all_slots(), 90);
    const auto slots = vmoe::pack_slots(kernels_, mu.data(), kHidden, shape.all_slots());
    Floats buf(kGroups * shape.all_slots() * kHidden);
    Floats dispatch(kRows * shape.all_slots()), combine(dispatch.size());
    vmoe::compute_soft_router(*slots, 3, shape, x_.data(), dispatch.data(), combine.data(), runner_);
    vmoe::soft_dispatch(kernels_, shape, rounds_, x_.data(), dispatch.data(), buf.data(), runner_);
    vmoe::soft_combine(kernels_, shape, rounds_, buf.data(), combine.data(), give(), runner_);
  }

  std::shared_ptr<const PackedWeights> make_router() const {
    return make_weights(kernels_, ElementType::kFloat32, make_form(1, kHidden, kExperts), 70).packed;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::strcmp(argv[1], "race") == 0;
  vmoe::CpuPath path;
  std::string error;
  if (!vmoe::chosen_cpu_path(&path, &error)) return 2;
  const Kernels& kernels = vmoe::kernels_for(path);
  std::atomic<int> equal{0};
  int unguarded = 0;
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  for (unsigned caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const ElementType type = kTypes[(caller + round) % std::size(kTypes)];
        const Floats alone = Caller(kernels, type, caller, vmoe::serial_runner()).compute();
        const Floats threaded = Caller(kernels, type, caller, threads_runner()).compute();
        equal += std::memcmp(alone.data(), threaded.data(), alone.size() * sizeof(float)) == 0 ? 1 : 0;
        if (race) ++unguarded;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("equal %d of %zu\n", equal.load() + 0 * unguarded, kCallers * kRounds);
  return equal == static_cast<int>(kCallers * kRounds) ? 0 : 1;
}
