#include "core/mlp.h"

#include "core/panel_tasks.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr size_t kRowsPerGather = 16;

// On float32 weights.
void compute_float32_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner) {
  const Kernels& kernels = weights.first.matrix->kernels();
  const size_t count = rows.first[weights.experts()];
  const size_t hidden = weights.hidden();
  const bool gathers = rows.norm || rows.round_bf16;
  const size_t gathered_stride = padded_stride(hidden);
  const size_t stride = padded_stride(weights.expert_hidden());
  float* gathered = nullptr;
  float* activations = nullptr;
  const Workspace workspace([&](auto& memory) {
    if (gathers) gathered = memory.template take<float>(count * gathered_stride);
    activations = memory.template take<float>(count * stride);
  });

  PanelProduct first;
  first.rows = rows.x;
  first.index = rows.index;
  first.row_stride = hidden;
  first.depth = hidden;
  if (gathers) {
    parallel_for(runner, (count + kRowsPerGather - 1) / kRowsPerGather, [&](size_t task) {
      for (size_t row = task * kRowsPerGather; row < count && row < (task + 1) * kRowsPerGather; ++row) {
        const float* from = rows.x + (rows.index == nullptr ? row : static_cast<size_t>(rows.index[row])) * hidden;
        float* to = gathered + row * gathered_stride;
        if (rows.norm) {
          kernels.normalize(from, rows.norm.scale, rows.norm.bias, hidden, to);
          from = to;
        }
        if (rows.round_bf16) kernels.round_bf16(from, hidden, to);
      }
    });
    first.rows = gathered;
    first.index = nullptr;
    first.row_stride = gathered_stride;
  }
  first.epilogue.activation = weights.activation;
  first.epilogue.bias = weights.first.bias;
  first.out = activations;
  first.out_stride = stride;
  multiply_all(*weights.first.matrix, rows.first, first, runner);

  PanelProduct second;
  second.rows = activations;
  second.row_stride = stride;
  second.depth = weights.expert_hidden();
  second.epilogue.round_bf16 = rows.round_bf16;
  second.epilogue.bias = weights.second.bias;
  second.out = out;
  second.out_stride = hidden;
  multiply_all(*weights.second.matrix, rows.first, second, runner);
}

}  // namespace

void compute_expert_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner) {
  if (!weights.first.in_tiles()) return compute_float32_mlp(weights, rows, out, runner);
  compute_tile_mlp(weights, rows, out, nullptr, runner);
  if (!rows.round_bf16) return;
  const size_t hidden = weights.hidden();
  parallel_for_rows(runner, rows.first[weights.experts()], [&](size_t begin, size_t end) {
    weights.first.matrix->kernels().round_bf16(out + begin * hidden, (end - begin) * hidden, out + begin * hidden);
  });
}

void compute_dense_mlp(const MlpWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner) {
  const size_t first[] = {0, rows};
  const MlpRows all{x, nullptr, first, norm};
  if (weights.first.in_tiles()) return compute_tile_mlp(weights, all, out, residual ? x : nullptr, runner);
  if (!residual) return compute_float32_mlp(weights, all, out, runner);
  const size_t hidden = weights.hidden();
  float* mlp = nullptr;
  const Workspace workspace([&](auto& memory) { mlp = memory.template take<float>(rows * hidden); });
  compute_float32_mlp(weights, all, mlp, runner);
  add_rows(x, mlp, rows, hidden, out, runner);
}

}  // namespace vmoe
