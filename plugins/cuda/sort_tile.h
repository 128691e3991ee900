// Sorts the (token, expert) pairs of a tile by expert and, within an expert, in the order in which the expert serves
// them. All threads of a block call choose_experts, sort_chunks, merge_runs, find_experts and sort_tile together. A
// team is the lanes that choose the experts of one token.
//
// Every chosen pair of a group gets a key. No two keys in a group are equal. An expert serves its pairs in the order of
// their keys. The position of a pair is therefore the number of smaller keys with the same expert. A key consists of
// these fields, from the highest bits to the lowest:
//
//   expert (8 bits) | choice (3) | best gate of the token, descending (32; 0 in vanilla order) | token (16)
//
// There are no atomics, so the results do not depend on the order of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/gate_order.h"
#include "cuda/tile.h"
#include "cuda/warp.h"
#include "cuda/words.h"

namespace vmoe::cuda {

__device__ inline Key make_key(uint32_t expert, uint32_t choice, uint32_t gate_bits, uint32_t token) {
  return static_cast<Key>(expert) << 51 | static_cast<Key>(choice) << 48 | static_cast<Key>(gate_bits) << 16 | token;
}
__device__ inline uint32_t key_expert(Key key) { return static_cast<uint32_t>(key >> 51); }
__device__ inline uint32_t key_choice(Key key) { return static_cast<uint32_t>(key >> 48) & 7u; }
__device__ inline uint32_t key_token(Key key) { return static_cast<uint32_t>(key) & 0xffffu; }

// Sorting starts with chunks of kChunk keys. The new position of a key in its chunk is the number of smaller keys in
// that chunk. Each sorted chunk is a run. Runs are then merged into longer and longer runs, kMergedRuns runs at a time.
inline constexpr uint32_t kChunk = 32;
inline constexpr uint32_t kMergedRuns = 4;

// The shared memory of a block: two buffers of tile_stride keys, and offsets[E+1].
struct TileMemory {
  Key* keys;
  Key* other;
  uint32_t* offsets;
};

// The sorted keys of a tile, in shared memory. The keys of expert e are at offsets[e] up to offsets[e + 1].
struct SortedTile {
  const Key* keys;
  const uint32_t* offsets;
};

// Returns how many keys in the kRuns sorted runs are smaller than `key`. Run r begins at begins[r] and has `width`
// keys, where `width` is a power of two. All keys are before index `end`. A run that would extend past `end` is shorter
// or empty.
template <uint32_t kRuns>
__device__ __forceinline__ uint32_t count_smaller_in_runs(const Key* keys, const uint32_t (&begins)[kRuns],
                                                          uint32_t width, uint32_t end, Key key) {
  uint32_t smaller[kRuns] = {};
  // Searches by halving. The steps are width / 2, width / 4 and so on down to 1. One more step of 1 follows. The
  // searches in all runs advance together, so that their memory latencies overlap.
  for (uint32_t rest = width; rest > 0; rest /= 2) {
    VMOE_UNROLL for (uint32_t r = 0; r < kRuns; ++r) {
      const uint32_t further = smaller[r] + (rest + 1) / 2;
      if (begins[r] + further <= end && keys[begins[r] + further - 1] < key) smaller[r] = further;
    }
  }
  uint32_t sum = 0;
  VMOE_UNROLL for (uint32_t r = 0; r < kRuns; ++r) sum += smaller[r];
  return sum;
}

// The gates of one token that one lane stores in registers. In the token's row of gates, they are the words lane,
// lane + lanes, lane + 2 * lanes and so on. The gates are stored as bit patterns that sort in the opposite order: the
// largest gate has the smallest bits. The stored gates are in the order of their experts. If there are so few experts
// that the second half of the registers is empty, that half is not searched.
template <class Word>
class LaneGates {
 public:
  using Parts = Elements<float, Word>;

  // Reads the lane's part of a row of `words` gates. If the team has no token, `words` is 0.
  __device__ __forceinline__ LaneGates(const Word* row, uint32_t words, uint32_t lane, uint32_t lanes)
      : first_(lane * Parts::kCount),
        stride_(lanes * Parts::kCount),
        halves_(words * Parts::kCount > lanes * kHalf ? 2 : 1) {
    VMOE_UNROLL for (uint32_t begin = 0; begin < kWords; begin += kBatch) {
      Word read[kBatch] = {};
      VMOE_UNROLL for (uint32_t i = 0; i < kBatch; ++i) {
        const uint32_t w = lane + (begin + i) * lanes;
        if (w < words) read[i] = row[w];
      }
      VMOE_UNROLL for (uint32_t i = 0; i < kBatch; ++i) {
        const bool is_there = lane + (begin + i) * lanes < words;
        Parts parts;
        std::memcpy(&parts, &read[i], sizeof(parts));
        VMOE_UNROLL for (uint32_t j = 0; j < Parts::kCount; ++j) {
          bits_[(begin + i) * Parts::kCount + j] = is_there ? descending_bits(parts.at[j]) : kGone;
        }
      }
    }
  }

  // Finds the largest remaining gate. If several gates are equal, finds the gate of the lowest expert. Returns
  // descending_bits(gate) << 32 | expert.
  __device__ __forceinline__ uint64_t find_least() {
    uint32_t bits = kGone;
    least_ = 0;
    VMOE_UNROLL for (uint32_t half = 0; half < 2; ++half) {
      if (half == halves_) break;
      VMOE_UNROLL for (uint32_t i = half * kHalf; i < (half + 1) * kHalf; ++i) {
        least_ = bits_[i] < bits ? i : least_;
        bits = bits_[i] < bits ? bits_[i] : bits;
      }
    }
    return static_cast<uint64_t>(bits) << 32 | least_expert();
  }

  // If the gate that find_least found belongs to `expert`, removes that gate. Returns whether the gate was removed.
  __device__ __forceinline__ bool take(uint32_t expert) {
    if (least_expert() != expert) return false;
    VMOE_UNROLL for (uint32_t i = 0; i < kLaneGates; ++i) bits_[i] = i == least_ ? kGone : bits_[i];
    return true;
  }

 private:
  static constexpr uint32_t kWords = kLaneGates / Parts::kCount;
  static constexpr uint32_t kBatch = kWords < 8 ? kWords : 8;  // number of words that are loaded at once
  static constexpr uint32_t kHalf = kLaneGates / 2;
  static constexpr uint32_t kGone = 0xffffffff;  // marks a removed or missing gate; sorts after the bits of every gate

  uint32_t bits_[kLaneGates] = {};
  uint32_t first_;
  uint32_t stride_;
  uint32_t halves_;
  uint32_t least_ = 0;

  __device__ uint32_t least_expert() const {
    return first_ + least_ / Parts::kCount * stride_ + least_ % Parts::kCount;
  }
};

// Each token chooses its K best experts, with one team of lanes per token. On ties, the lower expert wins. Reads
// gates[G,S,E]. Writes keys[pairs of the tile] and, unless they are null, the tile's elements of weight[G,S,K] and
// expert_of[G,S,K]. Each row of gates consists of whole words.
template <class Word>
__device__ __forceinline__ void choose_experts(const Groups& groups, const Tile& tile, const Word* gates, float* weight,
                                               int32_t* expert_of, Key* keys) {
  using Held = LaneGates<Word>;
  const uint32_t words = groups.experts / Held::Parts::kCount;
  const uint32_t lane = threadIdx.x % groups.lanes;
  const uint32_t teams = blockDim.x / groups.lanes;
  // Teams without a token take part, because an exchange needs all lanes of the warp.
  for (uint32_t first = 0; first < tile.tokens; first += teams) {
    const uint32_t t = first + threadIdx.x / groups.lanes;
    const bool is_token = t < tile.tokens;
    const uint32_t token = tile.first + t;
    const Word* const row = gates + (static_cast<size_t>(tile.group) * groups.tokens + token) * words;
    Held held(row, is_token ? words : 0, lane, groups.lanes);
    uint32_t best_bits = 0;
    for (uint32_t choice = 0; choice < groups.choices; ++choice) {
      // A lane starts with its own minimum. Each exchange doubles the number of lanes that its minimum covers. After
      // the last exchange, every lane has the minimum of the whole team.
      uint64_t least = held.find_least();
      for (uint32_t distance = groups.lanes / 2; distance > 0; distance /= 2) {
        const uint64_t other = exchange(least, distance);
        least = other < least ? other : least;
      }
      const auto expert = static_cast<uint32_t>(least);
      if (choice == 0 && groups.batch_priority != 0) best_bits = static_cast<uint32_t>(least >> 32);
      if (!is_token || !held.take(expert)) continue;
      const size_t pair = groups.pair_index(tile.group, token, choice);
      if (weight != nullptr) weight[pair] = reinterpret_cast<const float*>(row)[expert];
      if (expert_of != nullptr) expert_of[pair] = static_cast<int32_t>(expert);
      keys[t * groups.choices + choice] = make_key(expert, choice, best_bits, token);
    }
  }
}

// Divides the keys into chunks of kChunk keys and sorts each chunk.
__device__ inline void sort_chunks(uint32_t count, const Key* keys, Key* sorted) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const Key key = keys[i];
    const uint32_t begin = i / kChunk * kChunk;
    const uint32_t end = begin + kChunk < count ? begin + kChunk : count;
    uint32_t smaller = 0;
    for (uint32_t j = begin; j < end; ++j) smaller += keys[j] < key ? 1 : 0;
    sorted[begin + smaller] = key;
  }
}

// Merges neighbouring sorted runs of `width` keys, kMergedRuns runs at a time. The new position of a key depends on the
// number of smaller keys in the runs that are merged with its own run.
__device__ inline void merge_runs(uint32_t count, uint32_t width, const Key* keys, Key* merged) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const Key key = keys[i];
    const uint32_t run = i / width;
    const uint32_t others[kMergedRuns - 1] = {(run ^ 1u) * width, (run ^ 2u) * width, (run ^ 3u) * width};
    const uint32_t smaller = count_smaller_in_runs(keys, others, width, count, key);
    merged[run / kMergedRuns * kMergedRuns * width + i % width + smaller] = key;
  }
}

// Runs together with the last merge, when at most kMergedRuns runs are left. For each expert, finds the index at which
// its keys will begin after this merge. offsets[E] is the end of the last expert's keys.
__device__ inline void find_experts(uint32_t experts, uint32_t count, uint32_t width, const Key* keys,
                                    uint32_t* offsets) {
  const uint32_t runs[kMergedRuns] = {0, width, 2 * width, 3 * width};
  for (uint32_t e = threadIdx.x; e <= experts; e += blockDim.x) {
    offsets[e] = count_smaller_in_runs(keys, runs, width, count, make_key(e, 0, 0, 0));
  }
}

// Chooses the experts of a tile's tokens, and sorts the pairs. Reads and writes global memory like choose_experts. Ends
// with a barrier.
template <class Word>
__device__ __forceinline__ SortedTile sort_tile(const Groups& groups, const Tile& tile, const Word* gates,
                                                float* weight, int32_t* expert_of, const TileMemory& shared) {
  const uint32_t pairs = tile.tokens * groups.choices;
  Key* keys = shared.keys;
  Key* sorted = shared.other;
  choose_experts(groups, tile, gates, weight, expert_of, keys);
  __syncthreads();
  sort_chunks(pairs, keys, sorted);
  __syncthreads();
  bool is_last = false;
  for (uint32_t width = kChunk; !is_last; width *= kMergedRuns) {
    Key* const merged = keys;
    keys = sorted;
    sorted = merged;
    is_last = width * kMergedRuns >= pairs;
    merge_runs(pairs, width, keys, sorted);
    if (is_last) find_experts(groups.experts, pairs, width, keys, shared.offsets);
    __syncthreads();
  }
  return {sorted, shared.offsets};
}

}  // namespace vmoe::cuda
