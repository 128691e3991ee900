#include "core/expert_mlp.h"

namespace vmoe {
namespace {

// Rows a power of two apart would fall into the same few cache lines; this much more, and they don't.
constexpr size_t kPadBytes = 64;
constexpr size_t kRowsPerGather = 16;

size_t PaddedStride(size_t columns, size_t element_bytes) {
  const size_t per_line = kPadBytes / element_bytes;
  return (columns + per_line - 1) / per_line * per_line + per_line;
}

// Products of all experts' rows with one weight matrix each: a task is one panel of one expert, so that a panel is read
// from memory once.
void Multiply(const PackedWeights& weights, const size_t* first, PanelProduct product, const float* bias,
              const TaskRunner& runner) {
  const auto multiply = weights.bf16() ? weights.kernels().product_bf16 : weights.kernels().product_f32;
  const size_t panels = weights.panels();
  const size_t element_bytes = weights.bf16() ? sizeof(Bf16) : sizeof(float);
  const size_t out_bytes = product.epilogue.to_bf16 ? sizeof(Bf16) : sizeof(float);
  ParallelFor(runner, weights.matrices() * panels, [&](size_t task) {
    const size_t expert = task / panels;
    const size_t panel = task % panels;
    const size_t row = first[expert];
    if (first[expert + 1] == row) return;
    const size_t column = panel * weights.kernels().panel_columns;
    PanelProduct mine = product;
    mine.row_count = first[expert + 1] - row;
    if (product.index != nullptr) {
      mine.index = product.index + row;
    } else {
      mine.rows = static_cast<const char*>(product.rows) + row * product.row_stride * element_bytes;
    }
    mine.panel = weights.Panel(expert, panel);
    mine.columns = weights.PanelColumns(panel);
    mine.epilogue.bias = bias + expert * weights.columns() + column;
    mine.out = static_cast<char*>(product.out) + (row * product.out_stride + column) * out_bytes;
    multiply(mine);
  });
}

}  // namespace

size_t ExpertMlpBytes(const ExpertWeights& weights, size_t rows, bool dispatch_bf16) {
  const size_t element_bytes = weights.bf16() ? sizeof(Bf16) : sizeof(float);
  const bool gathers = weights.bf16() || dispatch_bf16;
  const size_t gathered = gathers ? rows * PaddedStride(weights.hidden(), element_bytes) * element_bytes : 0;
  const size_t activations = rows * PaddedStride(weights.expert_hidden(), element_bytes) * element_bytes;
  return Workspace::Bytes<char>(gathered) + Workspace::Bytes<char>(activations);
}

void ExpertMlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out, Workspace& workspace,
               const TaskRunner& runner) {
  const Kernels& kernels = weights.w1->kernels();
  const size_t count = rows.count(weights);
  const size_t hidden = weights.hidden();
  const size_t element_bytes = weights.bf16() ? sizeof(Bf16) : sizeof(float);

  PanelProduct first;
  first.rows = rows.x;
  first.index = rows.index;
  first.row_stride = hidden;
  first.depth = hidden;
  if (weights.bf16() || dispatch_bf16) {
    const size_t stride = PaddedStride(hidden, element_bytes);
    char* gathered = workspace.Take<char>(count * stride * element_bytes);
    ParallelFor(runner, (count + kRowsPerGather - 1) / kRowsPerGather, [&](size_t task) {
      for (size_t row = task * kRowsPerGather; row < count && row < (task + 1) * kRowsPerGather; ++row) {
        const float* from = rows.x + (rows.index == nullptr ? row : static_cast<size_t>(rows.index[row])) * hidden;
        char* to = gathered + row * stride * element_bytes;
        if (weights.bf16()) {
          kernels.to_bf16(from, hidden, reinterpret_cast<Bf16*>(to));
          // The other half of the last pair: finite, as it is multiplied by a weight of zero.
          reinterpret_cast<Bf16*>(to)[hidden] = 0;
        } else {
          kernels.round_bf16(from, hidden, reinterpret_cast<float*>(to));
        }
      }
    });
    first.rows = gathered;
    first.index = nullptr;
    first.row_stride = stride;
  }
  const size_t expert_hidden = weights.expert_hidden();
  const size_t stride = PaddedStride(expert_hidden, element_bytes);
  char* activations = workspace.Take<char>(count * stride * element_bytes);
  first.epilogue.gelu = true;
  first.epilogue.to_bf16 = weights.bf16();
  first.out = activations;
  first.out_stride = stride;
  if (weights.bf16() && expert_hidden % 2 != 0) {
    for (size_t row = 0; row < count; ++row) reinterpret_cast<Bf16*>(activations)[row * stride + expert_hidden] = 0;
  }
  Multiply(*weights.w1, rows.first, first, weights.b1, runner);

  PanelProduct second;
  second.rows = activations;
  second.row_stride = stride;
  second.depth = expert_hidden;
  second.epilogue.round_bf16 = dispatch_bf16;
  second.out = out;
  second.out_stride = hidden;
  Multiply(*weights.w2, rows.first, second, weights.b2, runner);
}

}  // namespace vmoe
