// Computes every layer of the core in turn. The tokens and the weights are generated, and the weights have one type.
// All sizes follow from one number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/attention.h"
#include "core/bfloat16.h"
#include "core/expert_block.h"
#include "core/linear.h"
#include "core/router.h"
#include "core/routing.h"
#include "core/soft_moe.h"

using vmoe::ElementType;
using vmoe::Kernels;
using vmoe::StoredWeights;
using vmoe::TaskRunner;
using Floats = std::vector<float>;

inline constexpr ElementType kTypes[] = {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kInt8,
                                         ElementType::kInt4};

// Returns the CPU paths that this machine supports.
inline std::vector<vmoe::CpuPath> supported_paths() {
  std::vector<vmoe::CpuPath> paths;
  for (size_t i = 0; i < std::size(vmoe::kCpuPathNames); ++i) {
    const auto path = static_cast<vmoe::CpuPath>(i);
    if (vmoe::cpu_path_supported(path)) paths.push_back(path);
  }
  return paths;
}

// Returns pseudo-random numbers from -0.5 to 0.5.
inline Floats make_numbers(size_t count, unsigned seed) {
  Floats numbers(count);
  for (float& number : numbers) {
    seed = seed * 1664525U + 1013904223U;
    number = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) / (1 << 24);
  }
  return numbers;
}

// The packed weights of a layer: one matrix, or one matrix per expert. Each column has a bias and a scale.
struct Layer {
  std::shared_ptr<const vmoe::PackedWeights> packed;
  Floats bias, scale;

  vmoe::LinearWeights weights() const { return {packed, bias.data(), scale.data()}; }
};

// Makes a layer. `form` contains the number and size of the matrices, and says how to pack them. If several threads
// pass the same arguments, their weights are equal, so the packed weights are shared. The threads pack and free these
// shared weights concurrently.
inline Layer make_layer(const Kernels& kernels, ElementType type, StoredWeights form, unsigned seed) {
  const Floats values = make_numbers(form.elements(), seed);
  std::vector<vmoe::Bf16> narrow;
  std::vector<int8_t> whole;  // int4 uses only its first half, because a byte holds two values
  const size_t groups = vmoe::divide_up(form.depth, 64);
  const std::vector<uint16_t> group_scale(form.matrices * groups * form.columns, 0x2bff);  // nearly 1 / 16
  form.scale = group_scale.data();
  form.type = type;
  form.data = values.data();
  if (type == ElementType::kBfloat16) {
    for (float value : values) narrow.push_back(vmoe::to_bf16(value));
    form.data = narrow.data();
  } else if (type != ElementType::kFloat32) {
    for (float value : values) whole.push_back(static_cast<int8_t>(value * 254));
    form.data = whole.data();
  }
  const size_t columns = form.matrices * form.columns;
  Layer layer{vmoe::PackedWeights::share(kernels, form), make_numbers(columns, seed + 1), Floats(columns)};
  const Floats shares = make_numbers(columns, seed + 2);
  for (size_t i = 0; i < columns; ++i) layer.scale[i] = (shares[i] + 1) / 254;
  return layer;
}

inline StoredWeights make_form(size_t matrices, size_t depth, size_t columns) {
  StoredWeights form;
  form.matrices = matrices;
  form.depth = depth;
  form.columns = columns;
  return form;
}

// The result of one layer. `kind` is kExact if the values are indices of tokens or slots, kFloat32 if all matrix
// products are in float32, and kRounded otherwise.
struct Answer {
  enum Kind : uint8_t { kExact, kFloat32, kRounded };
  std::string layer;
  Kind kind;
  Floats values;
};

class Layers {
 public:
  Layers(const Kernels& kernels, ElementType type, unsigned number, const TaskRunner& runner)
      : kernels_(kernels),
        type_(type),
        rounds_(number % 3 == 0),
        activation_(static_cast<vmoe::Activation>(number / 3 % 4)),
        runner_(runner),
        heads_(1 + number % 3),
        hidden_(heads_ * (1 + number * 7 % 40)),
        expert_hidden_(64 * (1 + number % 3)),
        shape_{1 + number % 3, 1 + number * 13 % 60, 1 + number % 6, 1 + number % 2 * (number % 6),
               3 + number,     number % 2 == 0},
        rows_(shape_.groups * shape_.tokens),
        x_(make_numbers(rows_ * hidden_, 6 + number)),
        norm_scale_(make_numbers(hidden_, 7)),
        norm_bias_(make_numbers(hidden_, 8)) {}

  std::vector<Answer> compute() {
    run_dense_layers();
    run_attention();
    run_attention_block();
    run_blocks();
    run_experts_that_choose();
    run_soft_experts();
    return std::move(answers_);
  }

 private:
  const Kernels& kernels_;
  ElementType type_;
  bool rounds_;  // whether dispatch rounds to bfloat16
  vmoe::Activation activation_;
  TaskRunner runner_;
  size_t heads_, hidden_, expert_hidden_;
  vmoe::RoutingShape shape_;
  size_t rows_;
  Floats x_, norm_scale_, norm_bias_;
  std::vector<Answer> answers_;

  vmoe::LayerNorm norm() const { return {norm_scale_.data(), norm_bias_.data()}; }
  Answer::Kind kind(bool rounds) const {
    return rounds || type_ != ElementType::kFloat32 ? Answer::kRounded : Answer::kFloat32;
  }
  // Adds a result with `count` values, and returns the memory to which the layer must write them.
  float* give(const char* layer, size_t count, Answer::Kind kind) {
    answers_.push_back({layer, kind, Floats(count)});
    return answers_.back().values.data();
  }
  void give_numbers(const char* layer, const std::vector<int32_t>& numbers) {
    answers_.push_back({layer, Answer::kExact, Floats(numbers.begin(), numbers.end())});
  }

  // Makes the two layers of an MLP. With several experts, each layer contains one matrix per expert.
  std::pair<Layer, Layer> make_mlp(size_t experts) const {
    StoredWeights second = make_form(experts, expert_hidden_, hidden_);
    second.depth_chunk = chunk();
    return {make_layer(kernels_, type_, make_form(experts, hidden_, expert_hidden_), 10),
            make_layer(kernels_, type_, second, 20)};
  }
  size_t chunk() const { return is_quantized() && heads_ > 1 ? 64 : 0; }
  bool is_quantized() const { return type_ == ElementType::kInt8 || type_ == ElementType::kInt4; }
  // Only MLPs support int4, so the other layers use int8.
  ElementType linear_type() const { return type_ == ElementType::kInt4 ? ElementType::kInt8 : type_; }
  vmoe::MlpWeights mlp_weights(const std::pair<Layer, Layer>& mlp) const {
    return {mlp.first.weights(), mlp.second.weights(), chunk(), activation_};
  }
  std::shared_ptr<const vmoe::PackedWeights> make_router() const {
    return make_layer(kernels_, ElementType::kFloat32, make_form(1, hidden_, shape_.experts), 70).packed;
  }

  void run_dense_layers() {
    constexpr size_t kColumns = 70;
    const Layer w = make_layer(kernels_, linear_type(), make_form(1, hidden_, kColumns), 30);
    vmoe::compute_linear(w.weights(), x_.data(), rows_, give("a linear layer", rows_ * kColumns, Answer::kFloat32),
                         runner_);
    const auto mlp = make_mlp(1);
    vmoe::compute_dense_mlp(mlp_weights(mlp), {}, x_.data(), rows_, false, give("an MLP", x_.size(), kind(false)),
                            runner_);
    const Layer gate = make_layer(kernels_, type_, make_form(1, hidden_, expert_hidden_), 13);
    const Floats scale = make_numbers(expert_hidden_, 16), bias = make_numbers(expert_hidden_, 17);
    vmoe::MlpWeights gated = mlp_weights(mlp);
    gated.gate = gate.weights();
    if (heads_ > 1) gated.hidden_norm = {scale.data(), bias.data()};
    const vmoe::LayerNorm rms{norm_scale_.data(), nullptr};
    vmoe::compute_dense_mlp(gated, rms, x_.data(), rows_, true, give("a gated MLP", x_.size(), kind(false)), runner_);
  }

  void run_attention() {
    const vmoe::AttentionShape shape{shape_.groups, shape_.tokens, shape_.tokens, hidden_, heads_};
    const Floats k = make_numbers(x_.size(), 40), v = make_numbers(x_.size(), 41);
    vmoe::compute_attention(kernels_, shape, x_.data(), k.data(), v.data(),
                            give("attention", x_.size(), Answer::kFloat32), runner_);
    vmoe::compute_tile_attention(kernels_, shape, x_.data(), k.data(), v.data(),
                                 give("attention in bfloat16", x_.size(), Answer::kRounded), runner_);
  }

  void run_attention_block() {
    const StoredWeights form = make_form(1, hidden_, hidden_);
    const Layer query = make_layer(kernels_, linear_type(), form, 50),
                key = make_layer(kernels_, linear_type(), form, 53),
                value = make_layer(kernels_, linear_type(), form, 56),
                out = make_layer(kernels_, linear_type(), form, 59);
    float* y = give("an attention block", x_.size(), kind(false));
    std::copy(x_.begin(), x_.end(), y);  // the block overwrites its input
    vmoe::compute_attention_block({query.weights(), key.weights(), value.weights(), out.weights(), norm(), heads_},
                                  shape_.groups, shape_.tokens, shape_.tokens, y, {}, y, runner_);
    run_merging_block({query.weights(), key.weights(), value.weights(), out.weights(), norm(), heads_, {}, norm()});
  }

  // Runs an attention block that merges tokens, some of which already represent several tokens.
  void run_merging_block(const vmoe::AttentionBlockWeights& weights) {
    const size_t tokens = shape_.tokens, images = shape_.groups, count = vmoe::count_merged(tokens, 3, 1);
    std::vector<float> sizes(images * tokens);
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = static_cast<float>(1 + i % 3);
    const std::vector<int32_t> token(images * 2);
    std::vector<int32_t> merged_token(token.size());
    std::vector<float> merged_sizes(images * (tokens - count));
    const vmoe::Merging merging{count, 1, 2, sizes.data(), token.data(), merged_sizes.data(), merged_token.data()};
    vmoe::compute_attention_block(weights, images, tokens, tokens, x_.data(), merging,
                                  give("a merging block", images * (tokens - count) * hidden_, kind(false)), runner_);
  }

  // Runs the MLP half of a dense encoder block, and then that of a sparse one. Each half overwrites its input.
  void run_blocks() {
    float* y = give("a dense block", x_.size(), kind(false));
    std::copy(x_.begin(), x_.end(), y);
    const auto dense = make_mlp(1);
    vmoe::compute_dense_mlp(mlp_weights(dense), norm(), y, rows_, true, y, runner_);
    vmoe::RoutingShape policies = shape_;
    policies.pool = shape_.capacity % 4 > 1;
    if (shape_.experts > 2) policies.max_experts = shape_.experts - 2;
    float* weight = give("the weights of a router", rows_ * shape_.choices, Answer::kFloat32);
    std::vector<int32_t> slot(rows_ * shape_.choices), expert(slot.size()), src;
    vmoe::RoutedTokens routing;
    const auto make_src = [&](size_t slots) {
      routing.slots = slots;
      src.resize(shape_.experts * slots);
      return src.data();
    };
    Floats gates(rows_ * shape_.experts);
    vmoe::compute_gates(*make_router(), norm(), x_.data(), rows_, gates.data(), runner_);
    vmoe::route(policies, gates.data(), slot.data(), weight, make_src, expert.data(), runner_);
    give_numbers("the slots of a router", slot);
    give_numbers("the sources of a router", src);
    give_numbers("the experts of a router", expert);
    routing.tokens = rows_;
    routing.choices = shape_.choices;
    routing.slot = slot.data();
    routing.weight = weight;
    routing.src = src.data();
    const auto sparse = make_mlp(shape_.experts);
    float* z = give("a sparse block", x_.size(), kind(rounds_));
    std::copy(x_.begin(), x_.end(), z);
    vmoe::compute_expert_block(mlp_weights(sparse), norm(), routing, rounds_, z, z, runner_);
  }

  void run_experts_that_choose() {
    const Floats gates = make_numbers(rows_ * shape_.experts, 80);
    std::vector<int32_t> slot(gates.size()), src(shape_.experts * shape_.slots());
    vmoe::choose_tokens(shape_, gates.data(), slot.data(), src.data(), runner_);
    give_numbers("slots of experts that choose", slot);
    give_numbers("sources of experts that choose", src);
  }

  // Runs the router, dispatch and combine of Soft MoE. No experts run between dispatch and combine, so combine reads
  // the dispatched slots.
  void run_soft_experts() {
    constexpr size_t kSlots = 7;
    const vmoe::SoftShape shape{shape_.groups, shape_.tokens, hidden_, shape_.experts, kSlots};
    const Floats mu = make_numbers(hidden_ * shape.all_slots(), 90);
    const auto slots = vmoe::pack_slots(kernels_, mu.data(), hidden_, shape.all_slots());
    Floats buf(shape_.groups * shape.all_slots() * hidden_);
    Floats dispatch(rows_ * shape.all_slots()), combine(dispatch.size());
    vmoe::compute_soft_router(*slots, 3, shape, x_.data(), dispatch.data(), combine.data(), runner_);
    vmoe::soft_dispatch(kernels_, shape, rounds_, x_.data(), dispatch.data(), buf.data(), runner_);
    vmoe::soft_combine(kernels_, shape, rounds_, buf.data(), combine.data(),
                       give("soft experts", x_.size(), kind(rounds_)), runner_);
  }
};
