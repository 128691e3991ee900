#include "core/mlp.h"

#include <algorithm>
#include <vector>

#include "core/panel_tasks.h"
#include "core/stages.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr size_t kRowsPerGather = 16;

// Normalizes `count` rows f32[depth] in place; they begin `stride` elements apart.
void normalize_in_place(const Kernels& kernels, const LayerNorm& norm, float* rows, size_t stride, size_t count,
                        size_t depth) {
  for (size_t row = 0; row < count; ++row, rows += stride) kernels.normalize(rows, norm.scale, norm.bias, depth, rows);
}

// Computes MLPs with float32 weights, for at most kFloat32Rows rows in total over all experts.
void compute_float32_part(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner) {
  const Kernels& kernels = weights.first.matrix->kernels();
  const size_t count = rows.first[weights.experts()];
  const size_t hidden = weights.hidden();
  const bool gathers = rows.norm || rows.round_bf16;
  const size_t gathered_stride = padded_stride(hidden);
  const size_t stride = padded_stride(weights.expert_hidden());
  Workspace workspace;
  auto* gathered = workspace.take<float>(gathers ? count * gathered_stride : 0);
  auto* activations = workspace.take<float>(count * stride);

  PanelProduct first;
  first.rows = rows.x;
  first.index = rows.index;
  first.row_stride = hidden;
  first.depth = hidden;
  if (gathers) {
    parallel_for(runner, divide_up(count, kRowsPerGather), [&](size_t task) {
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
  if (weights.gate) first.epilogue.activation = Activation::kNone;
  multiply_all(*weights.first.matrix, rows.first, first, runner);
  if (weights.gate) {
    first.epilogue.bias = weights.gate.bias;
    first.epilogue.activation = weights.activation;
    first.epilogue.factor = activations;
    multiply_all(*weights.gate.matrix, rows.first, first, runner);
  }
  if (weights.hidden_norm) {
    parallel_for_rows(runner, count, [&](size_t begin, size_t end) {
      normalize_in_place(kernels, weights.hidden_norm, activations + begin * stride, stride, end - begin,
                         weights.expert_hidden());
    });
  }

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

// Computes MLPs with float32 weights, on any number of rows.
void compute_float32_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner) {
  const size_t experts = weights.experts(), hidden = weights.hidden(), count = rows.first[experts];
  std::vector<size_t> first(experts + 1);
  for (size_t begin = 0; begin < count; begin += kFloat32Rows) {
    for (size_t e = 0; e <= experts; ++e) first[e] = std::clamp(rows.first[e], begin, begin + kFloat32Rows) - begin;
    MlpRows part = rows;
    part.first = first.data();
    if (rows.index != nullptr) {
      part.index += begin;
    } else {
      part.x += begin * hidden;
    }
    compute_float32_part(weights, part, out + begin * hidden, runner);
  }
}

// For bfloat16 weights, the number of hidden values of a row that are computed before the second product multiplies
// them. It is limited so that a group's hidden values stay in a core's second-level cache. Sums are always added up
// chunk by chunk, so the bits do not depend on the group's size. With a prototype on a Xeon with AMX, chunks of 768
// shortened the second products of a B/16 from 7.2 to 3.9 ms. On one thread of Zen 4, the times with chunks of 128 to
// 3072 differed by no more than the measurement noise, about 15 %.
constexpr size_t kHiddenChunk = 768;
// If a group has at most this many rows, it computes all its hidden values before the second product. It then reads the
// weights in the order of memory, because with so few rows, reading the weights takes most of the time. The value is
// from commit b3ed95c6, which records no measurement. On one thread of Zen 4, the times with limits from 0 to 1000 rows
// differed by no more than the measurement noise.
constexpr size_t kFewRows = 96;
// Fewer rows than this take no less time, because the weights have to be read.
constexpr size_t kLeastRows = 16;

// A slot (see stages.h): the memory for one group of rows. Each stage leaves results in it for the group's later
// stages.
struct Slot {
  PackedRows rows;                // packed inputs of the first product
  char* hidden = nullptr;         // packed inputs of the second product
  float* exact = nullptr;         // f32[rows, columns]: hidden values to normalize or quantize, or null
  float* hidden_scale = nullptr;  // if quantized: f32[chunks, rows]
};

// Computes MLPs with weights in tiles.
class Mlp {
 public:
  Mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const float* addend)
      : rows_(rows),
        out_(out),
        addend_(addend),
        kernels_(weights.first.matrix->kernels()),
        activation_(weights.activation),
        hidden_norm_(weights.hidden_norm),
        quantized_(weights.first.quantized()),
        packs_(quantized_ || hidden_norm_),
        tile_bytes_(weight_type(weights.first.type()).tile_step_bytes),
        hidden_(weights.first.matrix->columns()),
        width_(weights.second.matrix->columns()),
        groups_(group_rows(rows.first, weights.first.matrix->matrices())),
        apart_(groups_run_apart(groups_.size())) {
    chunk_ = quantized_ ? weights.hidden_chunk : kHiddenChunk;
    if (chunk_ == 0) chunk_ = std::max<size_t>(round_up(hidden_, depth_of_line(weights.first.type())), 1);
    // If there are no hidden values (F = 0), there is still one chunk. It has no steps and only adds the bias.
    chunks_ = std::max<size_t>(divide_up(hidden_, chunk_), 1);
    const size_t most_rows = find_most_rows(groups_);
    holds_all_ = !apart_ || most_rows <= kFewRows || hidden_norm_;
    most_tiles_ = divide_up(most_rows, kRowsPerTile);
    slots_.resize(stage_slots(groups_.size()));
    first_ = weights.first.with_padding(workspace_, rows.first);
    second_ = weights.second.with_padding(workspace_, rows.first);
    if (weights.gate) gate_ = weights.gate.with_padding(workspace_);
    offset_ = workspace_.take<size_t>(most_rows);
    exact_offset_ = workspace_.take<size_t>(most_rows);
    line_offset_ = workspace_.take<size_t>(most_rows);
    factor_offset_ = workspace_.take<size_t>(most_rows);
    for (Slot& slot : slots_) {
      slot.rows = first_.take_rows(workspace_, most_rows);
      slot.hidden = workspace_.take<char>(most_tiles_ * hidden_steps() * tile_bytes_);
      if (packs_) slot.exact = workspace_.take<float>(most_rows * exact_stride());
      if (quantized_) slot.hidden_scale = workspace_.take<float>(most_rows * chunks_);
    }
    for (size_t row = 0; row < most_rows; ++row) {
      offset_[row] = row * width_ * sizeof(float);
      exact_offset_[row] = row * exact_stride() * sizeof(float);
      line_offset_[row] = line_offset(row, hidden_steps() * tile_bytes_);
      factor_offset_[row] = row * kPanelColumns * sizeof(float);
    }
  }

  void run(const TaskRunner& runner) const {
    const size_t shared = apart_ ? groups_to_share() : groups_.size();
    run_stages(runner, groups_.size(), stages_apart(), shared, stages_together(), kernels_.needs_tile_configuration);
  }

 private:
  const MlpRows& rows_;
  float* out_;
  const float* addend_;
  const Kernels& kernels_;
  const Activation activation_;
  const LayerNorm hidden_norm_;
  const bool quantized_;
  const bool packs_;         // whether the first product writes float32 rows that are packed later
  const size_t tile_bytes_;  // bytes from one step of a row tile to the next
  const size_t hidden_;      // F
  const size_t width_;       // D
  const std::vector<RowGroup> groups_;
  const bool apart_;
  bool holds_all_ = true;
  size_t chunk_ = 0;
  size_t chunks_ = 0;
  size_t most_tiles_ = 0;
  LinearWeights first_, second_, gate_;
  size_t* factor_offset_ = nullptr;  // byte offset of each row in a float32 matrix as wide as one panel
  size_t* offset_ = nullptr;
  size_t* exact_offset_ = nullptr;
  size_t* line_offset_ = nullptr;
  std::vector<Slot> slots_;
  Workspace workspace_;

  size_t chunk_panels() const { return divide_up(chunk_, kPanelColumns); }
  size_t chunk_steps() const { return steps_of_depth(second_.type(), chunk_); }
  // Returns the number of steps of hidden values that a slot can store.
  size_t hidden_steps() const {
    return holds_all_ ? second_.matrix->steps() : std::min(chunk_steps(), second_.matrix->steps());
  }
  size_t exact_stride() const { return hidden_steps() * depth_of_line(second_.type()); }
  size_t panels_of_chunk(size_t chunk) const {
    return std::min(chunk_panels(), first_.matrix->panels() - chunk * chunk_panels());
  }
  size_t steps_of_chunk(size_t chunk) const {
    return std::min(chunk_steps(), second_.matrix->steps() - chunk * chunk_steps());
  }
  size_t row_tiles(size_t group) const { return divide_up(groups_[group].count(), kRowsPerTile); }

  // Returns how many of the last groups all threads should share. If it is 0, some threads may have nothing to do while
  // others compute their last group. A group's time is estimated by its number of rows.
  size_t groups_to_share() const {
    const size_t threads = stage_threads(), left = groups_.size() % threads;
    if (!holds_all_) return 0;
    std::vector<size_t> busy(threads);  // how long each thread computes groups apart
    size_t before = 0, shared = 0;
    for (size_t group = 0; group < groups_.size(); ++group) {
      const size_t time = std::max(groups_[group].count(), kLeastRows);
      if (group == groups_.size() - left) before = *std::max_element(busy.begin(), busy.end());
      if (group >= groups_.size() - left) shared += time;
      *std::min_element(busy.begin(), busy.end()) += time;
    }
    return before + divide_up(shared, threads) < *std::max_element(busy.begin(), busy.end()) ? left : 0;
  }

  std::vector<Stage> stages_apart() const {
    Stage all;
    all.items = 1;
    all.run = [this](size_t group, size_t slot, size_t, size_t) {
      pack_rows(group, slot, 0, row_tiles(group));
      const size_t matrix = groups_[group].matrix;
      if (holds_all_) {
        multiply_first(group, slot, 0, first_.matrix->panels(), 0, second_.matrix->panel_at(matrix, 0));
        pack_hidden(group, slot, 0, row_tiles(group));
        multiply_second_in_order(group, slot, 0, second_.matrix->panels());
        return;
      }
      for (size_t chunk = 0; chunk < chunks_; ++chunk) {
        const char* second =
            second_.matrix->panel_at(matrix, 0) + chunk * chunk_steps() * weight_type(second_.type()).panel_step_bytes;
        const char* next =
            chunk + 1 < chunks_ ? first_.matrix->panel_at(matrix, (chunk + 1) * chunk_panels()) : nullptr;
        multiply_first(group, slot, chunk * chunk_panels(), panels_of_chunk(chunk), 0, second);
        if (packs_) pack_chunk(group, slot, chunk, 0, 0, row_tiles(group));
        multiply_second(group, slot, chunk, 0, 0, second_.matrix->panels(), next);
      }
    };
    return {all};
  }

  std::vector<Stage> stages_together() const {
    std::vector<Stage> stages;
    stages.push_back(make_stage(this, most_tiles_, 1, &Mlp::pack_rows));
    stages.push_back(make_stage(this, first_.matrix->panels(), 2, &Mlp::multiply_all_first));
    if (packs_) stages.push_back(make_stage(this, most_tiles_, 1, &Mlp::pack_hidden));
    stages.push_back(make_stage(this, second_.matrix->panels(), 1, &Mlp::multiply_second_in_order));
    return stages;
  }

  void pack_rows(size_t group, size_t slot, size_t first_tile, size_t end_tile) const {
    const RowGroup& mine = groups_[group];
    TileRows rows = first_.make_rows(rows_.x, mine.count(), slots_[slot].rows);
    if (rows_.index != nullptr) {
      rows.index = rows_.index + mine.begin;
    } else {
      rows.rows += mine.begin * rows.stride;
    }
    rows.norm_scale = rows_.norm.scale;
    rows.norm_bias = rows_.norm.bias;
    rows.round_bf16 = rows_.round_bf16;
    pack_tiles(kernels_, rows, first_tile, end_tile);
  }

  void multiply_all_first(size_t group, size_t slot, size_t first_panel, size_t end_panel) const {
    multiply_first(group, slot, first_panel, end_panel - first_panel, first_panel, nullptr);
  }

  // Computes `panels` panels of the first product, and writes the hidden values to the slot, beginning at the slot's
  // panel `place`. If the MLP has a gate, computes one panel at a time. The panel then stays in the first-level cache
  // until it is multiplied by the activated gate.
  void multiply_first(size_t group, size_t slot, size_t first_panel, size_t panels, size_t place,
                      const char* next) const {
    if (!gate_) return activate(first_, group, slot, first_panel, panels, place, nullptr, next);
    const RowGroup& mine = groups_[group];
    Workspace scratch;
    auto* factor = scratch.take<float>(mine.count() * kPanelColumns);
    for (size_t panel = first_panel; panel < first_panel + panels; ++panel, ++place) {
      TileProduct product = first_.make_product(slots_[slot].rows, mine.count(), mine.matrix, panel, 1);
      product.next_panel = gate_.matrix->panel_at(mine.matrix, panel);
      product.columns = kPanelColumns;  // factors are whole panels
      FloatRows to;
      to.out = factor;
      to.offset = factor_offset_;
      kernels_.multiply_to_float_rows(product, to);
      const bool last = panel + 1 == first_panel + panels;
      activate(gate_, group, slot, panel, 1, place, factor,
               last ? next : first_.matrix->panel_at(mine.matrix, panel + 1));
    }
  }

  void activate(const LinearWeights& weights, size_t group, size_t slot, size_t first_panel, size_t panels,
                size_t place, const float* factor, const char* next) const {
    const RowGroup& mine = groups_[group];
    const Slot& memory = slots_[slot];
    TileProduct product = weights.make_product(memory.rows, mine.count(), mine.matrix, first_panel, panels);
    product.next_panel = next;
    if (packs_) {
      HiddenRows to;
      to.activation = activation_;
      to.factor = factor;
      to.out = memory.exact + place * kPanelColumns;
      to.offset = exact_offset_;
      kernels_.multiply_to_hidden_rows(product, to);
    } else {
      HiddenLines to;
      to.activation = activation_;
      to.factor = factor;
      to.out = memory.hidden + place * tile_bytes_;
      to.offset = line_offset_;
      to.line_stride = tile_bytes_;
      kernels_.multiply_to_hidden_lines(product, to);
    }
  }

  // Packs row tiles of chunk `chunk` of the hidden values. In the slot, the chunk begins at step `step`.
  void pack_chunk(size_t group, size_t slot, size_t chunk, size_t step, size_t first_tile, size_t end_tile) const {
    const Slot& memory = slots_[slot];
    const size_t count = groups_[group].count();
    TileRows rows;
    rows.type = second_.type();
    rows.rows = memory.exact + step * depth_of_line(rows.type);
    rows.stride = exact_stride();
    rows.row_count = count;
    rows.depth = std::min(chunk_, hidden_ - chunk * chunk_);
    rows.tiles = memory.hidden + step * tile_bytes_;
    rows.row_tile_stride = hidden_steps() * tile_bytes_;
    if (quantized_) rows.scale = memory.hidden_scale + chunk * count;
    pack_tiles(kernels_, rows, first_tile, end_tile);
  }

  void pack_hidden(size_t group, size_t slot, size_t first_tile, size_t end_tile) const {
    if (hidden_norm_) {
      const size_t first = first_tile * kRowsPerTile, end = std::min(end_tile * kRowsPerTile, groups_[group].count());
      float* rows = slots_[slot].exact + first * exact_stride();
      normalize_in_place(kernels_, hidden_norm_, rows, exact_stride(), end - std::min(first, end), hidden_);
    }
    for (size_t chunk = 0; packs_ && chunk < chunks_; ++chunk) {
      pack_chunk(group, slot, chunk, chunk * chunk_steps(), first_tile, end_tile);
    }
  }

  // Computes the panels `first_panel` to `end_panel` (exclusive) of the second product. Computes all chunks of one
  // panel before it begins the next panel, because the weights are stored in this order.
  void multiply_second_in_order(size_t group, size_t slot, size_t first_panel, size_t end_panel) const {
    const size_t matrix = groups_[group].matrix;
    for (size_t panel = first_panel; panel < end_panel; ++panel) {
      for (size_t chunk = 0; chunk < chunks_; ++chunk) {
        const size_t step = chunk * chunk_steps();
        const bool last = panel + 1 == second_.matrix->panels() && chunk + 1 == chunks_;
        const char* next = last ? nullptr
                                : second_.matrix->panel_at(matrix, panel) +
                                      (step + steps_of_chunk(chunk)) * weight_type(second_.type()).panel_step_bytes;
        multiply_second(group, slot, chunk, step, panel, 1, next);
      }
    }
  }

  // Computes the second product of one chunk for `panels` panels. In the slot, the chunk's hidden values begin at step
  // `step`.
  void multiply_second(size_t group, size_t slot, size_t chunk, size_t step, size_t first_panel, size_t panels,
                       const char* next) const {
    const RowGroup& mine = groups_[group];
    const Slot& memory = slots_[slot];
    const PackedRows rows{memory.hidden + step * tile_bytes_,
                          quantized_ ? memory.hidden_scale + chunk * mine.count() : nullptr};
    TileProduct product = second_.make_product(rows, mine.count(), mine.matrix, first_panel, panels,
                                               chunk * chunk_steps(), steps_of_chunk(chunk));
    product.row_tile_stride = hidden_steps() * tile_bytes_;
    product.next_panel = next;
    const size_t place = mine.begin * width_ + first_panel * kPanelColumns;
    FloatRows to;
    to.out = out_ + place;
    to.offset = offset_;
    // The sum of the first chunk is added to the caller's addend. The sum of each later chunk is added to the output so
    // far. The last chunk also adds the bias.
    to.addend = chunk > 0 ? out_ + place : addend_ != nullptr ? addend_ + place : nullptr;
    if (chunk + 1 < chunks_) product.bias = nullptr;
    kernels_.multiply_to_float_rows(product, to);
  }
};

// Computes out = MLP(rows) + `addend`. `out` and `addend` are f32[rows, D]; `addend` may be `out` or null. Does not
// round the result to bfloat16.
void compute_tile_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const float* addend,
                      const TaskRunner& runner) {
  Mlp(weights, rows, out, addend).run(runner);
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
  const size_t hidden = weights.hidden();
  if (weights.first.in_tiles()) {
    const size_t first[] = {0, rows};
    return compute_tile_mlp(weights, {x, nullptr, first, norm}, out, residual ? x : nullptr, runner);
  }
  Workspace workspace;
  auto* mlp = workspace.take<float>(residual ? std::min(rows, kFloat32Rows) * hidden : 0);
  for (size_t begin = 0; begin < rows; begin += kFloat32Rows) {
    const size_t count = std::min(kFloat32Rows, rows - begin), first[] = {0, count}, place = begin * hidden;
    compute_float32_mlp(weights, {x + place, nullptr, first, norm}, residual ? mlp : out + place, runner);
    if (residual) add_rows(x + place, mlp, count, hidden, out + place, runner);
  }
}

}  // namespace vmoe
