#include "core/merging.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace vmoe {
namespace {

constexpr size_t kScoreRows = 16;  // candidates per block; only one block's scores are in memory at a time
constexpr float kNoScore = -std::numeric_limits<float>::infinity();

size_t every_second(size_t first, size_t tokens) { return tokens > first ? (tokens - first + 1) / 2 : 0; }

// first_joining returns the index of the first candidate. first_joined returns the index of the first token that a
// candidate may join. From there on, candidates and tokens that they may join alternate. If the prefix is a single
// token (the class token), token 1 may be joined, and token 2 is the first candidate. Otherwise, the first token after
// the prefix is a candidate, and the next token may be joined.
size_t first_joining(size_t prefix) { return prefix == 1 ? 2 : prefix; }
size_t first_joined(size_t prefix) { return prefix == 1 ? 1 : prefix + 1; }

// For each candidate, finds the most similar token that it may join. `most_similar` receives the index of that token,
// counted among the tokens that candidates may join; `similarity` receives the similarity.
void find_most_similar(const Kernels& kernels, const MergingKeys& keys, size_t prefix, size_t tokens,
                       uint32_t* most_similar, float* similarity) {
  const size_t first = first_joining(prefix), joined = first_joined(prefix);
  const size_t rows = every_second(first, tokens), columns = every_second(joined, tokens);
  Workspace workspace;
  auto* unit = workspace.take<float>(tokens * keys.size);
  auto* packed = workspace.take<float>(packed_elements(kernels, keys.size, columns));
  auto* scores = workspace.take<float>(kScoreRows * columns);
  const size_t begin = std::min(first, joined);
  if (keys.size > 0) kernels.unit_keys(keys, begin, tokens - begin, unit + begin * keys.size);
  for_each_panel(kernels, keys.size, columns, [&](size_t column, size_t count, size_t place) {
    pack_transposed_panel(kernels, unit + (joined + 2 * column) * keys.size, 2 * keys.size, keys.size, count,
                          packed + place);
  });
  for (size_t row = 0; row < rows; row += kScoreRows) {
    const size_t count = std::min(kScoreRows, rows - row);
    for_each_panel(kernels, keys.size, columns, [&](size_t column, size_t width, size_t place) {
      multiply_panel(kernels, unit + (first + 2 * row) * keys.size, 2 * keys.size, count, keys.size, packed + place,
                     width, scores + column, columns);
    });
    for (size_t r = 0; r < count; ++r) {
      const float* mine = scores + r * columns;
      similarity[row + r] = kernels.largest_score(mine, columns);
      const float* found = std::find(mine, mine + columns, similarity[row + r]);
      most_similar[row + r] = similarity[row + r] == kNoScore ? 0 : static_cast<uint32_t>(found - mine);
    }
  }
}

}  // namespace

size_t count_merged(size_t tokens, int64_t merge, size_t prefix) {
  if (merge <= 0 || every_second(first_joined(prefix), tokens) == 0) return 0;
  const size_t most = std::min(tokens / 2, every_second(first_joining(prefix), tokens));
  return static_cast<uint64_t>(merge) < most ? static_cast<size_t>(merge) : most;
}

ImageMerging::ImageMerging(const Merging& merging, size_t tokens, Workspace& memory)
    : merging_(merging),
      tokens_(tokens),
      first_(first_joining(merging.prefix)),
      joined_(first_joined(merging.prefix)),
      behind_(static_cast<int32_t>(merging.prefix + every_second(first_, tokens) - merging.count)),
      place_(memory.take<int32_t>(tokens)),
      total_(memory.take<float>(tokens - merging.count)) {}

void ImageMerging::find(const Kernels& kernels, size_t image, const MergingKeys& keys) {
  const size_t count = merging_.count, left = tokens_ - count, joining = every_second(first_, tokens_);
  Workspace workspace;
  auto* most_similar = workspace.take<uint32_t>(joining);
  auto* order = workspace.take<uint32_t>(joining);
  auto* similarity = workspace.take<float>(joining);
  find_most_similar(kernels, keys, merging_.prefix, tokens_, most_similar, similarity);
  for (size_t i = 0; i < joining; ++i) order[i] = static_cast<uint32_t>(i);
  std::nth_element(order, order + count - 1, order + joining, [similarity](uint32_t a, uint32_t b) {
    return similarity[a] != similarity[b] ? similarity[a] > similarity[b] : a < b;
  });
  std::fill(place_, place_ + tokens_, -1);
  for (size_t i = 0; i < count; ++i) {
    place_[first_ + size_t{2} * order[i]] = behind_ + static_cast<int32_t>(most_similar[order[i]]);
  }
  int32_t stays = 0, next = behind_;
  for (; stays < static_cast<int32_t>(merging_.prefix); ++stays) place_[stays] = stays;
  for (size_t token = first_; token < tokens_; token += 2) {
    if (place_[token] < 0) place_[token] = stays++;
  }
  for (size_t token = joined_; token < tokens_; token += 2) place_[token] = next++;

  sizes_ = merging_.sizes + image * tokens_;
  std::fill(total_, total_ + left, 0.0f);
  for (size_t token = 0; token < tokens_; ++token) total_[place_[token]] += sizes_[token];
  if (merging_.merged_sizes != nullptr) std::copy(total_, total_ + left, merging_.merged_sizes + image * left);
  if (merging_.merged_coordinates != nullptr) {
    const size_t columns = merging_.coordinate_count;
    merge_rows(merging_.coordinates + image * tokens_ * columns, columns,
               merging_.merged_coordinates + image * left * columns);
  }
  for (size_t i = 0; i < merging_.all_tokens && merging_.merged_token != nullptr; ++i) {
    const int32_t now = merging_.token[image * merging_.all_tokens + i];
    merging_.merged_token[image * merging_.all_tokens + i] = now < 0 ? -1 : place_[now];
  }
}

bool ImageMerging::joins(size_t token) const {
  return token >= first_ && (token - first_) % 2 == 0 && place_[token] >= behind_;
}

void ImageMerging::join_rows(const float* joining, size_t columns, float* to) const {
  const auto row = [&](size_t token) { return to + place(token) * columns; };
  // If other tokens join a token, that token's row is multiplied by its size before the first joining row is added.
  // After the last joining row, the sum is divided by the total size, which makes it a mean.
  for (size_t token = joined_; token < tokens_; token += 2) {
    if (total_[place_[token]] == sizes_[token]) continue;
    for (size_t i = 0; i < columns; ++i) row(token)[i] *= sizes_[token];
  }
  for (size_t token = first_; token < tokens_; token += 2) {
    if (!joins(token)) continue;
    for (size_t i = 0; i < columns; ++i) row(token)[i] += sizes_[token] * joining[i];
    joining += columns;
  }
  for (size_t token = joined_; token < tokens_; token += 2) {
    if (total_[place_[token]] == sizes_[token]) continue;
    for (size_t i = 0; i < columns; ++i) row(token)[i] /= total_[place_[token]];
  }
}

void ImageMerging::merge_rows(const float* from, size_t columns, float* to) const {
  Workspace workspace;
  auto* joining = workspace.take<float>(merging_.count * columns);
  float* next = joining;
  for (size_t token = 0; token < tokens_; ++token, from += columns) {
    float* row = to + place(token) * columns;
    if (joins(token)) row = std::exchange(next, next + columns);
    std::memcpy(row, from, columns * sizeof(float));
  }
  join_rows(joining, columns, to);
}

void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner) {
  parallel_for(runner, images, [&](size_t image) {
    Workspace workspace;
    ImageMerging merged(merging, tokens, workspace);
    MergingKeys keys;
    keys.values = k + image * tokens * width;
    keys.token_stride = width;
    keys.heads = heads;
    keys.size = width / heads;
    merged.find(kernels, first + image, keys);
    merged.merge_rows(x + image * tokens * width, width, y + image * (tokens - merging.count) * width);
  });
}

bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to) {
  if (std::all_of(sizes, sizes + tokens, [](float size) { return size == 1.0f; })) return false;
  for (size_t token = 0; token < tokens; ++token) to[token] = std::log(sizes[token]) / scale;
  std::fill(to + tokens, to + padded, 0.0f);
  return true;
}

}  // namespace vmoe
