#include "core/expert_mlp.h"

#include "core/panel_tasks.h"

namespace vmoe {
namespace {

constexpr size_t kRowsPerGather = 16;

}  // namespace

size_t ExpertMlpBytes(const ExpertWeights& weights, size_t rows, bool dispatch_bf16) {
  const size_t element_bytes = weights.bf16() ? sizeof(Bf16) : sizeof(float);
  const bool gathers = weights.bf16() || dispatch_bf16;
  const size_t gathered = gathers ? rows * PaddedStride(weights.hidden(), element_bytes) * element_bytes : 0;
  const size_t activations = rows * PaddedStride(weights.expert_hidden(), element_bytes) * element_bytes;
  return Workspace::Bytes<char>(gathered) + Workspace::Bytes<char>(activations);
}

void ExpertMlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out,
               Workspace& workspace, const TaskRunner& runner) {
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
  first.epilogue.bias = weights.b1;
  MultiplyAll(*weights.w1, rows.first, first, runner);

  PanelProduct second;
  second.rows = activations;
  second.row_stride = stride;
  second.depth = expert_hidden;
  second.epilogue.round_bf16 = dispatch_bf16;
  second.out = out;
  second.out_stride = hidden;
  second.epilogue.bias = weights.b2;
  MultiplyAll(*weights.w2, rows.first, second, runner);
}

}  // namespace vmoe
