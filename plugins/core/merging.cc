#include "core/merging.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr float kEpsilon = 1e-12f;  // under the root of a key's length
constexpr size_t kScoreRows = 16;   // whose scores are held at once

size_t every_second(size_t first, size_t tokens) { return tokens > first ? (tokens - first + 1) / 2 : 0; }

// The tokens that may join another, and those that may be joined: every second one from these on. A classifier's token
// counts as token 0; a longer prefix is left out of the count.
size_t first_joining(size_t prefix) { return prefix == 1 ? 2 : prefix; }
size_t first_joined(size_t prefix) { return prefix == 1 ? 1 : prefix + 1; }

// The mean of a token's keys over the heads, as a unit vector.
void unit_key(const MergingKeys& keys, size_t token, float* to) {
  if (keys.size == 0) return;  // of any number of heads
  const float* from = keys.values + token * keys.token_stride;
  const float share = 1.0f / static_cast<float>(keys.heads);
  std::copy(from, from + keys.size, to);
  for (size_t head = 1; head < keys.heads; ++head) {
    for (size_t i = 0; i < keys.size; ++i) to[i] += from[head * keys.head_stride + i];
  }
  float squares = 0;
  for (size_t i = 0; i < keys.size; ++i) {
    to[i] *= share;
    squares += to[i] * to[i];
  }
  const float length = std::sqrt(squares + kEpsilon);
  for (size_t i = 0; i < keys.size; ++i) to[i] /= length;
}

// For each token that may join one the likest that may be joined, and how like it is.
void find_likest(const Kernels& kernels, const MergingKeys& keys, size_t prefix, size_t tokens, uint32_t* likest,
                 float* likeness) {
  const size_t first = first_joining(prefix), joined = first_joined(prefix);
  const size_t rows = every_second(first, tokens), columns = every_second(joined, tokens);
  Workspace workspace;
  auto* unit = workspace.take<float>(tokens * keys.size);
  auto* packed = workspace.take<float>(packed_elements(kernels, keys.size, columns));
  auto* scores = workspace.take<float>(kScoreRows * columns);
  for (size_t token = std::min(first, joined); token < tokens; ++token) unit_key(keys, token, unit + token * keys.size);
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
      float best = -std::numeric_limits<float>::infinity();
      uint32_t to = 0;
      for (size_t column = 0; column < columns; ++column) {
        const float score = scores[r * columns + column];
        if (score > best) {  // never of NaN
          best = score;
          to = static_cast<uint32_t>(column);
        }
      }
      likest[row + r] = to;
      likeness[row + r] = best;
    }
  }
}

}  // namespace

size_t count_merged(size_t tokens, int64_t merge, size_t prefix) {
  if (merge <= 0 || every_second(first_joined(prefix), tokens) == 0) return 0;
  const size_t most = std::min(tokens / 2, every_second(first_joining(prefix), tokens));
  return static_cast<uint64_t>(merge) < most ? static_cast<size_t>(merge) : most;
}

void merge_image(const Kernels& kernels, const Merging& merging, size_t image, size_t tokens, size_t width,
                 const float* x, const MergingKeys& keys, float* y) {
  const size_t prefix = merging.prefix, left = tokens - merging.count;
  const size_t first = first_joining(prefix), joined = first_joined(prefix);
  const size_t joining = every_second(first, tokens);
  Workspace workspace;
  auto* likest = workspace.take<uint32_t>(joining);
  auto* order = workspace.take<uint32_t>(joining);
  auto* likeness = workspace.take<float>(joining);
  auto* place = workspace.take<int32_t>(tokens);
  auto* total = workspace.take<float>(left);
  find_likest(kernels, keys, prefix, tokens, likest, likeness);
  for (size_t i = 0; i < joining; ++i) order[i] = static_cast<uint32_t>(i);
  std::nth_element(order, order + merging.count - 1, order + joining, [likeness](uint32_t a, uint32_t b) {
    return likeness[a] != likeness[b] ? likeness[a] > likeness[b] : a < b;
  });
  const size_t behind = prefix + joining - merging.count;
  std::fill(place, place + tokens, -1);
  for (size_t i = 0; i < merging.count; ++i) {
    place[first + size_t{2} * order[i]] = static_cast<int32_t>(behind + likest[order[i]]);
  }
  int32_t stays = 0;
  for (; stays < static_cast<int32_t>(prefix); ++stays) place[stays] = stays;
  for (size_t token = first; token < tokens; token += 2) {
    if (place[token] < 0) place[token] = stays++;
  }
  for (size_t token = joined, next = behind; token < tokens; token += 2) place[token] = static_cast<int32_t>(next++);

  const float* sizes = merging.sizes + image * tokens;
  std::fill(total, total + left, 0.0f);
  for (size_t token = 0; token < tokens; ++token) total[place[token]] += sizes[token];
  const auto joins = [&](size_t token) {
    return token >= first && (token - first) % 2 == 0 && place[token] >= static_cast<int32_t>(behind);
  };
  const auto join_rows = [&](const float* from, size_t columns, float* to) {
    const auto row = [&](size_t token) { return to + static_cast<size_t>(place[token]) * columns; };
    for (size_t token = 0; token < tokens; ++token) {
      if (!joins(token)) std::memcpy(row(token), from + token * columns, columns * sizeof(float));
    }
    // What is joined becomes a sum before the first token is added to it, and a mean after the last.
    for (size_t token = joined; token < tokens; token += 2) {
      if (total[place[token]] == sizes[token]) continue;
      for (size_t i = 0; i < columns; ++i) row(token)[i] *= sizes[token];
    }
    for (size_t token = first; token < tokens; token += 2) {
      if (!joins(token)) continue;
      for (size_t i = 0; i < columns; ++i) row(token)[i] += sizes[token] * from[token * columns + i];
    }
    for (size_t token = joined; token < tokens; token += 2) {
      if (total[place[token]] == sizes[token]) continue;
      for (size_t i = 0; i < columns; ++i) row(token)[i] /= total[place[token]];
    }
  };
  join_rows(x, width, y);
  if (merging.merged_coordinates != nullptr) {
    const size_t count = merging.coordinate_count;
    join_rows(merging.coordinates + image * tokens * count, count, merging.merged_coordinates + image * left * count);
  }
  if (merging.merged_sizes != nullptr) std::copy(total, total + left, merging.merged_sizes + image * left);
  if (merging.merged_token == nullptr) return;
  for (size_t i = 0; i < merging.all_tokens; ++i) {
    const int32_t now = merging.token[image * merging.all_tokens + i];
    merging.merged_token[image * merging.all_tokens + i] = now < 0 ? -1 : place[now];
  }
}

void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner) {
  parallel_for(runner, images, [&](size_t image) {
    const MergingKeys keys{k + image * tokens * width, width, width / heads, heads, width / heads};
    merge_image(kernels, merging, first + image, tokens, width, x + image * tokens * width, keys,
                y + image * (tokens - merging.count) * width);
  });
}

bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to) {
  if (std::all_of(sizes, sizes + tokens, [](float size) { return size == 1.0f; })) return false;
  for (size_t token = 0; token < tokens; ++token) to[token] = std::log(sizes[token]) / scale;
  std::fill(to + tokens, to + padded, 0.0f);
  return true;
}

}  // namespace vmoe
