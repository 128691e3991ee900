#include "core/expert_mlp.h"

#include "core/panel_tasks.h"
#include "core/residual.h"
#include "core/tile_kernels.h"
#include "core/tile_mlp.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr size_t kRowsPerGather = 16;

TileMlpWeights in_tiles(const ExpertWeights& weights) {
  TileMlpWeights tiles;
  tiles.first = {weights.w1.get(), weights.b1, weights.w1_scale};
  tiles.second = {weights.w2.get(), weights.b2, weights.w2_scale};
  tiles.hidden_chunk = weights.hidden_chunk;
  return tiles;
}

void round_rows(const Kernels& kernels, float* rows, size_t count, size_t width, const TaskRunner& runner) {
  parallel_for_rows(runner, count, [&](size_t begin, size_t end) {
    kernels.round_bf16(rows + begin * width, (end - begin) * width, rows + begin * width);
  });
}

// The experts on float32 weights.
void compute_float32_mlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out,
                         const TaskRunner& runner) {
  const Kernels& kernels = weights.w1->kernels();
  const size_t count = rows.count(weights);
  const size_t hidden = weights.hidden();
  const bool gathers = rows.norm || dispatch_bf16;
  const size_t gathered_stride = padded_stride(hidden);
  const size_t stride = padded_stride(weights.expert_hidden());
  float* gathered = nullptr;
  float* activations = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    if (gathers) gathered = memory.template take<float>(count * gathered_stride);
    activations = memory.template take<float>(count * stride);
  });

  PanelProduct first;
  first.rows = rows.x;
  first.index = rows.index;
  first.row_stride = hidden;
  first.depth = hidden;
  if (gathers) {
    const auto normalize = tile_kernels_for(kernels.path).normalize;
    parallel_for(runner, (count + kRowsPerGather - 1) / kRowsPerGather, [&](size_t task) {
      for (size_t row = task * kRowsPerGather; row < count && row < (task + 1) * kRowsPerGather; ++row) {
        const float* from = rows.x + (rows.index == nullptr ? row : static_cast<size_t>(rows.index[row])) * hidden;
        float* to = gathered + row * gathered_stride;
        if (rows.norm) {
          normalize(from, rows.norm.scale, rows.norm.bias, hidden, to);
          from = to;
        }
        if (dispatch_bf16) kernels.round_bf16(from, hidden, to);
      }
    });
    first.rows = gathered;
    first.index = nullptr;
    first.row_stride = gathered_stride;
  }
  first.epilogue.gelu = true;
  first.epilogue.bias = weights.b1;
  first.out = activations;
  first.out_stride = stride;
  multiply_all(*weights.w1, rows.first, first, runner);

  PanelProduct second;
  second.rows = activations;
  second.row_stride = stride;
  second.depth = weights.expert_hidden();
  second.epilogue.round_bf16 = dispatch_bf16;
  second.epilogue.bias = weights.b2;
  second.out = out;
  second.out_stride = hidden;
  multiply_all(*weights.w2, rows.first, second, runner);
}

}  // namespace

void compute_expert_mlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out,
                        const TaskRunner& runner) {
  if (weights.type() == ElementType::kFloat32) return compute_float32_mlp(weights, rows, dispatch_bf16, out, runner);
  TileMlpRows tiles;
  tiles.x = rows.x;
  tiles.index = rows.index;
  tiles.first = rows.first;
  tiles.norm_scale = rows.norm.scale;
  tiles.norm_bias = rows.norm.bias;
  tiles.round_bf16 = dispatch_bf16;
  compute_tile_mlp(in_tiles(weights), tiles, out, nullptr, runner);
  if (dispatch_bf16) round_rows(weights.w1->kernels(), out, rows.count(weights), weights.hidden(), runner);
}

void compute_dense_mlp(const ExpertWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner) {
  const size_t first[] = {0, rows};
  if (weights.type() == ElementType::kFloat32) {
    if (!residual) return compute_float32_mlp(weights, {x, nullptr, first, norm}, false, out, runner);
    const size_t hidden = weights.hidden();
    float* mlp = nullptr;
    Workspace workspace;
    take_all(workspace, [&](auto& memory) { mlp = memory.template take<float>(rows * hidden); });
    compute_float32_mlp(weights, {x, nullptr, first, norm}, false, mlp, runner);
    add_rows(x, mlp, rows, hidden, out, runner);
    return;
  }
  TileMlpRows tiles;
  tiles.x = x;
  tiles.first = first;
  tiles.norm_scale = norm.scale;
  tiles.norm_bias = norm.bias;
  compute_tile_mlp(in_tiles(weights), tiles, out, residual ? x : nullptr, runner);
}

}  // namespace vmoe
