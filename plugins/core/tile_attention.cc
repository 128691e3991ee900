#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/attention.h"
#include "core/stages.h"

namespace vmoe {
namespace {

// Computes attention for one head of one image. The queries, keys and values are lines: each line contains 32 columns
// of a token in 64 bytes. Allocates the scratch memory. Throws std::bad_alloc.
void attend_head(const Kernels& kernels, TileHead head) {
  Workspace scratch;
  head.scratch = scratch.take<char>(tile_head_bytes(head.tokens, head.lines));
  kernels.attend(head);
}

// Computes TileHead::added, f32[tokens in whole panels], for heads of `size` columns. Writes the values to `memory` and
// returns a pointer to them, or null if there is nothing to add. `sizes`, f32[tokens] or null, contains the number of
// original tokens that each key represents.
const float* added_to_scores(const float* sizes, size_t tokens, size_t size, float* memory) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  const size_t padded = round_up(tokens, kPanelColumns);
  return sizes != nullptr && size_scores(sizes, tokens, padded, scale, memory) ? memory : nullptr;
}

// Packs one head's columns of some tokens as lines of bfloat16. The lines of all tokens for the first 32 columns come
// first, then the lines of all tokens for the next 32 columns. Products write their lines in this order too.
void pack_head(const Kernels& kernels, const float* from, size_t stride, size_t tokens, size_t size, char* to) {
  const size_t tiles = divide_up(tokens, kRowsPerTile);
  TileRows rows;
  rows.stride = stride;
  rows.row_count = tokens;
  rows.row_tile_stride = kTileBytes;
  for (size_t column = 0; column < size; column += kPanelColumns) {
    rows.rows = from + column;
    rows.depth = std::min(kPanelColumns, size - column);
    rows.tiles = to + column / kPanelColumns * tiles * kTileBytes;
    pack_tiles(kernels, rows, 0, tiles);
  }
}

// Computes attention for head `number` of image `image`. The pointers q, k, v and y point to the first image.
void compute_head(const Kernels& kernels, const AttentionShape& shape, size_t image, size_t number, const float* q,
                  const float* k, const float* v, float* y) {
  TileHead head;
  head.size = shape.hidden / shape.heads;
  head.lines = divide_up(head.size, kPanelColumns);
  head.queries = shape.queries;
  head.tokens = shape.tokens;
  head.q_step_stride = divide_up(shape.queries, kRowsPerTile) * kTileBytes;
  head.line_stride = divide_up(shape.tokens, kRowsPerTile) * kTileBytes;
  Workspace workspace;
  auto* offset = workspace.take<size_t>(shape.queries);
  auto* query = workspace.take<char>(head.lines * head.q_step_stride);
  auto* key = workspace.take<char>(head.lines * head.line_stride);
  auto* value = workspace.take<char>(head.lines * head.line_stride);
  auto* added = workspace.take<float>(round_up(shape.tokens, kPanelColumns));
  for (size_t row = 0; row < shape.queries; ++row) offset[row] = row * shape.hidden * sizeof(float);
  const size_t first_query = image * shape.queries * shape.hidden + number * head.size;
  const size_t first_token = image * shape.tokens * shape.hidden + number * head.size;
  pack_head(kernels, q + first_query, shape.hidden, shape.queries, head.size, query);
  pack_head(kernels, k + first_token, shape.hidden, shape.tokens, head.size, key);
  pack_head(kernels, v + first_token, shape.hidden, shape.tokens, head.size, value);
  head.q = query;
  head.k = key;
  head.v = value;
  const float* sizes = shape.sizes == nullptr ? nullptr : shape.sizes + image * shape.tokens;
  head.added = added_to_scores(sizes, shape.tokens, head.size, added);
  head.offset = offset;
  head.out_columns = head.size;
  head.out = y + first_query;
  attend_head(kernels, head);
}

// Copies the columns of one head to new lines. The head's `size` columns begin at `column`, which may be inside a line.
// The new lines begin with the head's first column, and are padded with zeros.
//
// A line contains 32 columns of a token in 64 bytes. In the input and the output, the lines of all tokens for the same
// 32 columns are adjacent. The lines for the next 32 columns begin `stride` bytes later. The function copies kBytes at
// once. Because a column has 2 bytes, kBytes must divide 2 * `column` and 2 * `size`.
template <size_t kBytes>
void cut_columns(const char* from, size_t stride, size_t column, size_t size, size_t tokens, char* to) {
  for (size_t byte = 0; byte < round_up(2 * size, kLineBytes); byte += kBytes) {
    const size_t place = 2 * column + byte;
    const char* in = from + place / kLineBytes * stride + place % kLineBytes;
    char* out = to + byte / kLineBytes * stride + byte % kLineBytes;
    for (size_t line = 0; line < tokens * kLineBytes; line += kLineBytes) {
      if (byte < 2 * size) {
        std::memcpy(out + line, in + line, kBytes);
      } else {
        std::memset(out + line, 0, kBytes);
      }
    }
  }
}

class Block {
 public:
  Block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens, const float* x,
        const Merging& merging, float* y)
      : norm_(weights.norm),
        mixed_norm_(weights.mixed_norm),
        images_(images),
        queries_(queries),
        tokens_(tokens),
        x_(x),
        merging_(merging),
        y_(y),
        kernels_(weights.query.matrix->kernels()),
        heads_(weights.heads),
        width_(weights.query.matrix->depth()),
        quantized_(weights.query.quantized()),
        cut_(width_ / heads_ % kPanelColumns != 0),
        rotation_(kernels_, weights.rotation, images, tokens, width_, heads_, workspace_) {
    const size_t fair = std::max<size_t>(images / stage_threads(), 1);
    images_of_group_ = std::clamp<size_t>(most_rows_of_group() / tokens, 1, fair);
    groups_ = divide_up(images, images_of_group_);
    slots_.resize(stage_slots(groups_));
    take_memory(weights);
    compute_offsets();
  }

  void run(const TaskRunner& runner) const {
    const size_t row_tiles = divide_up(images_of_group_ * tokens_, kRowsPerTile);
    std::vector<Stage> stages;
    stages.push_back(make_stage(this, row_tiles, 1, &Block::normalize));
    stages.push_back(make_stage(this, 3 * lines(), 2, &Block::project));
    stages.push_back(make_stage(this, images_of_group_ * (merges() + heads_), 1, &Block::find_merging_and_mix));
    stages.back().uneven = merges();
    const size_t asking_tiles = divide_up(images_of_group_ * queries_, kRowsPerTile);
    if (packs()) stages.push_back(make_stage(this, asking_tiles, 1, &Block::pack));
    stages.push_back(make_stage(this, out_.matrix->panels(), 1, &Block::project_out));
    if (merges()) stages.push_back(make_stage(this, images_of_group_, 1, &Block::join));
    run_stages(runner, groups_, stages, kernels_.needs_tile_configuration);
  }

 private:
  // A slot (see stages.h): the memory for one group of images. Each stage leaves results in it for the group's later
  // stages.
  struct Slot {
    PackedRows rows;        // packed inputs of the key and value projections
    PackedRows asking;      // packed inputs of the query projection
    char* query = nullptr;  // [image][head][line] of row tiles
    char* key = nullptr;    // [image][head][line] of lines
    char* value = nullptr;
    PackedRows mixed;                 // packed inputs of the output projection
    float* exact = nullptr;           // set only if packs(): the output of attention, f32[rows, D]
    float* size_scores = nullptr;     // memory for `added`
    std::vector<const float*> added;  // of each image: see TileHead::added; empty if there are no sizes
    // If tokens are merged:
    float* exact_key = nullptr;  // keys before rounding, f32[rows, lines * 32]; if sums_keys, the keys' sums over the
                                 // heads, f32[rows, D / H]
    bool sums_keys = false;      // whether exact_key has sums
    std::vector<ImageMerging> merging;  // of each image
    float* joining = nullptr;           // rows f32[D] of the tokens that are merged into other tokens, image by image
    float** out_row = nullptr;          // pointer to the beginning of each output row
  };

  const LayerNorm norm_, mixed_norm_;
  const size_t images_, queries_, tokens_;
  const float* x_;
  const Merging& merging_;
  float* y_;
  const Kernels& kernels_;
  const size_t heads_;
  const size_t width_;  // D
  const bool quantized_;
  const bool cut_;  // whether some heads begin inside a line
  size_t images_of_group_ = 1;
  size_t groups_ = 0;
  LinearWeights query_, key_, value_, out_;
  size_t* row_offset_ = nullptr;
  size_t* mixed_offset_ = nullptr;
  size_t* query_offset_ = nullptr;
  size_t* token_offset_ = nullptr;
  int32_t* asking_ = nullptr;        // indices of those rows of a group that are queries
  size_t* whole_column_ = nullptr;   // [panels]: column of exact_key where each panel begins, if exact_key has no sums
  size_t* summed_column_ = nullptr;  // [panels]: column of exact_key where each panel begins, if it has sums
  size_t* rotation_offset_[2] = {};  // offsets in the rotation table: [0] for all queries, [1] for all rows
  mutable std::vector<Slot> slots_;  // one for each group that may run at the same time
  Workspace workspace_;
  const RotationTable rotation_;

  // Whether attention writes float32 rows, which are packed afterwards. If not, attention writes packed lines.
  bool packs() const { return quantized_ || cut_ || mixed_norm_; }
  bool merges() const { return merging_.count > 0; }
  size_t score_stride() const { return round_up(tokens_, kPanelColumns); }
  size_t key_stride(bool summed) const { return summed ? width_ / heads_ : lines() * kPanelColumns; }
  // Returns the total number of lines that a token has in all heads.
  size_t lines() const { return query_.matrix->panels(); }
  size_t images_of(size_t group) const { return std::min(images_of_group_, images_ - group * images_of_group_); }
  size_t rows_of(size_t group) const { return images_of(group) * tokens_; }
  size_t asking_of(size_t group) const { return images_of(group) * queries_; }
  size_t first_row(size_t group) const { return group * images_of_group_ * tokens_; }
  size_t first_asking(size_t group) const { return group * images_of_group_ * queries_; }
  // Whether only part of the tokens are queries.
  bool some_ask() const { return queries_ < tokens_; }
  // Returns the distance in bytes between two consecutive blocks of 32 columns in an image's packed queries.
  size_t query_stride() const { return divide_up(queries_, kRowsPerTile) * kTileBytes; }

  // Allocates the memory of every slot, and pads the weights.
  void take_memory(const AttentionBlockWeights& weights) {
    const size_t rows = images_of_group_ * tokens_;
    const size_t asking = images_of_group_ * queries_;
    query_ = weights.query.with_padding(workspace_);
    key_ = weights.key.with_padding(workspace_);
    value_ = weights.value.with_padding(workspace_);
    out_ = weights.out.with_padding(workspace_);
    whole_column_ = workspace_.take<size_t>(lines());
    summed_column_ = workspace_.take<size_t>(lines());
    row_offset_ = workspace_.take<size_t>(asking);
    mixed_offset_ = workspace_.take<size_t>(asking);
    query_offset_ = workspace_.take<size_t>(asking);
    asking_ = workspace_.take<int32_t>(asking);
    token_offset_ = workspace_.take<size_t>(rows);
    for (Slot& slot : slots_) {
      slot.rows = query_.take_rows(workspace_, rows);
      slot.asking = some_ask() ? query_.take_rows(workspace_, asking) : slot.rows;
      slot.query = workspace_.take<char>(images_of_group_ * lines() * query_stride());
      slot.key = workspace_.take<char>(rows * lines() * kLineBytes);
      slot.value = workspace_.take<char>(rows * lines() * kLineBytes);
      slot.mixed = out_.take_rows(workspace_, asking);
      if (merges()) {
        slot.exact_key = workspace_.take<float>(rows * lines() * kPanelColumns);
        slot.joining = workspace_.take<float>(images_of_group_ * merging_.count * width_);
        slot.out_row = workspace_.take<float*>(rows);
        for (size_t i = 0; i < images_of_group_; ++i) slot.merging.emplace_back(merging_, tokens_, workspace_);
      }
      if (packs()) slot.exact = workspace_.take<float>(asking * width_);
      if (merging_.sizes != nullptr) {
        slot.added.resize(images_of_group_);
        slot.size_scores = workspace_.take<float>(images_of_group_ * score_stride());
      }
    }
  }

  // Computes where each row of a group begins in the memory to which stages write their outputs.
  void compute_offsets() {
    for (size_t row = 0; row < images_of_group_ * queries_; ++row) {
      const size_t image = row / queries_;
      const size_t query = row % queries_;
      asking_[row] = static_cast<int32_t>(image * tokens_ + query);
      row_offset_[row] = row * width_ * sizeof(float);
      mixed_offset_[row] = packs() ? row_offset_[row] : line_offset(row, out_.row_tile_stride());
      query_offset_[row] = image * lines() * query_stride() + line_offset(query, kTileBytes);
    }
    for (size_t i = 0; rotation_ && i < 2; ++i) {
      const size_t rows = i == 0 ? queries_ : tokens_;
      rotation_offset_[i] = workspace_.take<size_t>(images_ * rows);
      for (size_t row = 0; row < images_ * rows; ++row)
        rotation_offset_[i][row] = rotation_.place(row / rows, row % rows);
    }
    for (size_t panel = 0; panel < lines(); ++panel) {
      whole_column_[panel] = panel * kPanelColumns;
      summed_column_[panel] = panel * kPanelColumns % (width_ / heads_);
    }
    for (size_t row = 0; row < images_of_group_ * tokens_; ++row) {
      const size_t image = row / tokens_;
      token_offset_[row] = image * tokens_ * lines() * kLineBytes + row % tokens_ * kLineBytes;
    }
  }

  void normalize(size_t group, size_t slot, size_t first_tile, size_t end_tile) const {
    TileRows rows = query_.make_rows(x_ + first_row(group) * width_, rows_of(group), slots_[slot].rows);
    rows.norm_scale = norm_.scale;
    rows.norm_bias = norm_.bias;
    pack_tiles(kernels_, rows, first_tile, end_tile);
    if (first_tile == 0) prepare_size_scores(group, slot);
    if (!some_ask() || first_tile > 0) return;
    rows.index = asking_;
    rows.row_count = asking_of(group);
    rows.tiles = slots_[slot].asking.tiles;
    rows.scale = slots_[slot].asking.scale;
    pack_tiles(kernels_, rows, 0, divide_up(rows.row_count, kRowsPerTile));
    for (size_t row = 0; row < rows.row_count; ++row) {  // project_out adds to these
      std::copy_n(rows.rows + static_cast<size_t>(asking_[row]) * width_, width_,
                  y_ + (first_asking(group) + row) * width_);
    }
  }

  void prepare_size_scores(size_t group, size_t slot) const {
    if (merging_.sizes == nullptr) return;
    Slot& memory = slots_[slot];
    for (size_t i = 0; i < images_of(group); ++i) {
      const float* sizes = merging_.sizes + first_row(group) + i * tokens_;
      memory.added[i] = added_to_scores(sizes, tokens_, width_ / heads_, memory.size_scores + i * score_stride());
    }
  }

  // Computes the panels `begin` to `end` (exclusive) of the query, key and value projections. Panels are numbered
  // consecutively: first those of the query projection, then those of the key and value projections.
  void project(size_t group, size_t slot, size_t begin, size_t end) const {
    Slot& memory = slots_[slot];
    // If a thread projects all panels of a group, the thread also sums the keys over the heads, because the keys are
    // still in the thread's cache.
    const bool sums_keys = !cut_ && end - begin == 3 * lines();
    if (begin == 0) memory.sums_keys = sums_keys;
    HeadLines query, key, value;
    query.out = memory.query;
    query.offset = query_offset_;
    query.line_stride = query_stride();
    key.out = memory.key;
    value.out = memory.value;
    key.offset = value.offset = token_offset_;
    key.line_stride = value.line_stride = tokens_ * kLineBytes;
    if (rotation_) {
      query.rotation = rotation_of(rotation_offset_[0] + first_asking(group));
      key.rotation = rotation_of(rotation_offset_[1] + first_row(group));
    }
    if (merges()) {
      key.exact.emplace();
      key.exact->out = memory.exact_key;
      key.exact->stride = key_stride(sums_keys);
      key.exact->column = sums_keys ? summed_column_ : whole_column_;
      key.exact->first_added_panel = sums_keys ? lines() / heads_ : lines();
    }
    const struct {
      const LinearWeights& weights;
      const PackedRows& rows;
      size_t count;
      HeadLines& to;
    } projections[] = {
        {query_, memory.asking, asking_of(group), query},
        {key_, memory.rows, rows_of(group), key},
        {value_, memory.rows, rows_of(group), value},
    };
    for (size_t i = 0; i < 3; ++i) {
      const size_t first = std::max(begin, i * lines()), last = std::min(end, (i + 1) * lines());
      if (first >= last) continue;
      const auto& mine = projections[i];
      const size_t panel = first - i * lines();
      mine.to.out += panel * mine.to.line_stride;
      if (mine.to.rotation) mine.to.rotation->first_column = panel * kPanelColumns;
      if (mine.to.exact) mine.to.exact->column += panel;
      kernels_.multiply_to_head_lines(mine.weights.make_product(mine.rows, mine.count, 0, panel, last - first),
                                      mine.to);
    }
  }

  // Returns the rotation of rows. The cosines and sines for row r begin at index offset[r] of the rotation table.
  LineRotation rotation_of(const size_t* offset) const {
    LineRotation rotation;
    rotation.cosines = rotation_.cosines();
    rotation.sines = rotation_.sines();
    rotation.offset = offset;
    rotation.period = rotation_.period();
    return rotation;
  }

  // Processes the items `begin` to `end` (exclusive). If tokens are merged, the first items are the group's images, for
  // which merging is decided. This takes as long as one to three heads. The remaining items are the heads of the
  // images, for which attention is computed.
  void find_merging_and_mix(size_t group, size_t slot, size_t begin, size_t end) const {
    const size_t merged = merges() ? images_of_group_ : 0;
    if (begin < merged) find_merging(group, slot, begin, std::min(end, merged));
    if (end > merged) mix(group, slot, std::max(begin, merged) - merged, end - merged);
  }

  void find_merging(size_t group, size_t slot, size_t begin, size_t end) const {
    Slot& memory = slots_[slot];
    const size_t stride = key_stride(memory.sums_keys), count = merging_.count;
    for (size_t i = begin; i < std::min(end, images_of(group)); ++i) {
      const size_t image = group * images_of_group_ + i;
      ImageMerging& merging = memory.merging[i];
      MergingKeys keys;
      keys.values = memory.exact_key + i * tokens_ * stride;
      keys.token_stride = stride;
      keys.heads = heads_;
      keys.size = width_ / heads_;
      keys.summed = memory.sums_keys;
      merging.find(kernels_, image, keys);
      float* joining = memory.joining + i * count * width_;
      float* y = y_ + image * (tokens_ - count) * width_;
      for (size_t token = 0; token < tokens_; ++token) {
        const bool joins = merging.joins(token);
        memory.out_row[i * tokens_ + token] = joins ? joining : y + merging.place(token) * width_;
        if (joins) joining += width_;
      }
    }
  }

  void mix(size_t group, size_t slot, size_t begin, size_t end) const {
    const Slot& memory = slots_[slot];
    TileHead head;
    head.q_step_stride = query_stride();
    head.line_stride = tokens_ * kLineBytes;
    head.queries = queries_;
    head.tokens = tokens_;
    head.size = width_ / heads_;
    head.lines = divide_up(head.size, kPanelColumns);
    Workspace scratch;
    char* own[3] = {};
    for (size_t part = 0; cut_ && part < 3; ++part) {
      own[part] = scratch.take<char>(head.lines * (part == 0 ? head.q_step_stride : head.line_stride));
    }
    for (size_t i = begin; i < std::min(end, images_of(group) * heads_); ++i) {
      const size_t image = i / heads_, column = i % heads_ * head.size, line = column / kPanelColumns;
      const auto place = [&](char* of_all, size_t stride, size_t tokens, char* to) -> const char* {
        const char* from = of_all + image * lines() * stride;
        if (!cut_) return from + line * stride;
        const auto cut = head.size % 8 == 0 ? cut_columns<16> : cut_columns<2>;
        cut(from, stride, column, head.size, tokens, to);
        return to;
      };
      head.q = place(memory.query, head.q_step_stride, queries_, own[0]);
      head.k = place(memory.key, head.line_stride, tokens_, own[1]);
      head.v = place(memory.value, head.line_stride, tokens_, own[2]);
      head.offset = mixed_offset_ + image * queries_;
      head.added = memory.added.empty() ? nullptr : memory.added[image];
      if (packs()) {
        head.out = memory.exact + column;
        head.out_columns = head.size;
      } else {
        head.out = memory.mixed.tiles + line * kTileBytes;
        head.out_lines = true;
        head.out_line_stride = kTileBytes;
      }
      attend_head(kernels_, head);
    }
  }

  void pack(size_t group, size_t slot, size_t first_tile, size_t end_tile) const {
    const Slot& memory = slots_[slot];
    TileRows rows = out_.make_rows(memory.exact, asking_of(group), memory.mixed);
    rows.norm_scale = mixed_norm_.scale;
    rows.norm_bias = mixed_norm_.bias;
    pack_tiles(kernels_, rows, first_tile, end_tile);
  }

  void project_out(size_t group, size_t slot, size_t begin, size_t end) const {
    const Slot& memory = slots_[slot];
    const TileProduct product = out_.make_product(memory.mixed, asking_of(group), 0, begin, end - begin);
    const size_t place = first_asking(group) * width_ + begin * kPanelColumns;
    FloatRows to;
    to.out = y_ + place;
    to.offset = row_offset_;
    to.addend = (some_ask() ? y_ : x_) + place;
    if (merges()) to.scattered = ScatteredRows{memory.out_row, begin * kPanelColumns};
    kernels_.multiply_to_float_rows(product, to);
  }

  void join(size_t group, size_t slot, size_t begin, size_t end) const {
    const size_t left = tokens_ - merging_.count;
    for (size_t i = begin; i < std::min(end, images_of(group)); ++i) {
      const size_t image = group * images_of_group_ + i;
      slots_[slot].merging[i].join_rows(slots_[slot].joining + i * merging_.count * width_, width_,
                                        y_ + image * left * width_);
    }
  }
};

}  // namespace

void compute_tile_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* y, const TaskRunner& runner) {
  if (shape.queries == 0 || shape.tokens == 0 || shape.hidden == 0) return;
  Stage heads;
  heads.items = 1;
  heads.run = [&](size_t group, size_t, size_t, size_t) {
    compute_head(kernels, shape, group / shape.heads, group % shape.heads, q, k, v, y);
  };
  run_stages(runner, shape.images * shape.heads, {heads}, kernels.needs_tile_configuration);
}

void compute_tile_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                                  const float* x, const Merging& merging, float* y, const TaskRunner& runner) {
  if (images == 0 || tokens == 0) return;
  if (weights.query.matrix->depth() == 0) {
    if (merging.count == 0) return;
    return merge_tokens(weights.query.matrix->kernels(), merging, 0, images, tokens, 0, weights.heads, x, x, y, runner);
  }
  Block(weights, images, queries, tokens, x, merging, y).run(runner);
}

}  // namespace vmoe
