// Routing, divided into phases with barriers between them. Each phase is a function that every thread runs for itself,
// except phase 1, which is a function that a team of lanes runs. A thread may read what another thread has written only
// after the next barrier. The comment above each phase lists what the phase reads and writes. A test runs the phases on
// the CPU, with the threads in any order, and fails if one of these comments is wrong.
//
// Every chosen (token, expert) pair of a group gets a key. No two keys in a group are equal. An expert serves its pairs
// in the order of their keys. The position of a pair is therefore the number of smaller keys with the same expert. A
// key consists of these fields, from the highest bits to the lowest:
//
//   expert (8 bits) | choice (3) | best gate of the token, descending (32; 0 in vanilla order) | token (16)
//
// A tile is a range of tokens of one group. One block sorts the keys of a tile. If the group is one tile, the positions
// follow directly from the sorted order. Otherwise, the position of a pair is found by a search in every tile of its
// group. There are no atomics, so the results do not depend on the order of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/gate_order.h"
#include "core/host_device.h"
#include "cuda/words.h"

namespace vmoe::cuda {

using Key = uint64_t;

VMOE_HOST_DEVICE Key make_key(uint32_t expert, uint32_t choice, uint32_t gate_bits, uint32_t token) {
  return static_cast<Key>(expert) << 51 | static_cast<Key>(choice) << 48 | static_cast<Key>(gate_bits) << 16 | token;
}
VMOE_HOST_DEVICE uint32_t key_expert(Key key) { return static_cast<uint32_t>(key >> 51); }
VMOE_HOST_DEVICE uint32_t key_choice(Key key) { return static_cast<uint32_t>(key >> 48) & 7u; }
VMOE_HOST_DEVICE uint32_t key_token(Key key) { return static_cast<uint32_t>(key) & 0xffffu; }

// One tile of a group, and the parameters of the group's routing.
struct Tile {
  uint32_t group;
  uint32_t first;           // index of the tile's first token within the group
  uint32_t tokens;          // tokens in the tile
  uint32_t group_tokens;    // S
  uint32_t experts;         // E
  uint32_t choices;         // K
  uint32_t capacity;        // c
  uint32_t slots;           // M
  uint32_t batch_priority;  // 1 for batch priority, 0 for vanilla order
  uint32_t lanes;           // number of lanes that choose the experts of one token

  VMOE_HOST_DEVICE uint32_t pairs() const { return tokens * choices; }
  // Returns the index of a (token, choice) pair among the pairs of all groups.
  VMOE_HOST_DEVICE size_t pair_index(uint32_t token, uint32_t choice) const {
    return (static_cast<size_t>(group) * group_tokens + token) * choices + choice;
  }
  // Returns the number of slots in the group: `capacity` slots for each expert.
  VMOE_HOST_DEVICE uint32_t group_slots() const { return experts * capacity; }
  // Returns the index of a slot among the slots of all groups.
  VMOE_HOST_DEVICE size_t slot_index(uint32_t expert, uint32_t position) const {
    return static_cast<size_t>(expert) * slots + static_cast<size_t>(group) * capacity + position;
  }
};

// Sorting starts with chunks of kChunk keys. The new position of a key in its chunk is the number of smaller keys in
// that chunk. Each sorted chunk is a run. Runs are then merged into longer and longer runs, kMergedRuns runs at a time.
inline constexpr uint32_t kChunk = 32;
inline constexpr uint32_t kMergedRuns = 4;

// Maximum number of gates of one token that a lane stores.
inline constexpr uint32_t kLaneGates = 16;

// Returns the number of keys in the sorted range keys[begin, end) that are smaller than `key`.
template <class Keys>
VMOE_HOST_DEVICE uint32_t count_smaller(const Keys& keys, size_t begin, size_t end, Key key) {
  size_t low = begin;
  while (low < end) {
    const size_t middle = low + (end - low) / 2;
    if (keys.load(middle) < key) {
      low = middle + 1;
    } else {
      end = middle;
    }
  }
  return static_cast<uint32_t>(low - begin);
}

// Returns how many keys in the kRuns sorted runs are smaller than `key`. Run r begins at begins[r] and has `width`
// keys, where `width` is a power of two. All keys are before index `end`. A run that would extend past `end` is shorter
// or empty.
template <uint32_t kRuns, class Keys>
VMOE_HOST_DEVICE uint32_t count_smaller_in_runs(const Keys& keys, const uint32_t (&begins)[kRuns], uint32_t width,
                                                uint32_t end, Key key) {
  uint32_t smaller[kRuns] = {};
  // Searches by halving. The steps are width / 2, width / 4 and so on down to 1. One more step of 1 follows. The
  // searches in all runs advance together, so that their memory latencies overlap.
  for (uint32_t rest = width; rest > 0; rest /= 2) {
    VMOE_UNROLL for (uint32_t r = 0; r < kRuns; ++r) {
      const uint32_t further = smaller[r] + (rest + 1) / 2;
      if (begins[r] + further <= end && keys.load(begins[r] + further - 1) < key) smaller[r] = further;
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

  // Reads the lane's part of a row of gates. The row starts at word `first_word` and has `words` words. If the team has
  // no token, `words` is 0.
  template <class Gates>
  VMOE_HOST_DEVICE void read_row(const Gates& gates, size_t first_word, uint32_t words, uint32_t lane, uint32_t lanes) {
    first_ = lane * Parts::kCount;
    stride_ = lanes * Parts::kCount;
    halves_ = words * Parts::kCount > lanes * kHalf ? 2 : 1;
    VMOE_UNROLL for (uint32_t begin = 0; begin < kWords; begin += kBatch) {
      Word read[kBatch] = {};
      VMOE_UNROLL for (uint32_t i = 0; i < kBatch; ++i) {
        const uint32_t w = lane + (begin + i) * lanes;
        if (w < words) read[i] = gates.load(first_word + w);
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
  VMOE_HOST_DEVICE uint64_t find_least() {
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
  VMOE_HOST_DEVICE bool take(uint32_t expert) {
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
  uint32_t first_ = 0;
  uint32_t stride_ = 0;
  uint32_t halves_ = 0;
  uint32_t least_ = 0;

  VMOE_HOST_DEVICE uint32_t least_expert() const {
    return first_ + least_ / Parts::kCount * stride_ + least_ % Parts::kCount;
  }
};

// Phase 1. Each token chooses its K best experts, with one team of lanes per token. On ties, the lower expert wins.
//
// A team provides:
// - Lanes<T>, which stores one T per lane; a lane sees only its own T;
// - for_each_lane(f), which calls f(lane) for every lane;
// - exchange(of, distance, other), which copies `of[lane ^ distance]` to `other[lane]` for every lane.
// All teams of a block make the same calls in the same order, even teams without a token. Each row of `gates` consists
// of whole words.
//
// Reads gates[G,S,E]. Writes the team's own elements of keys[pairs of the tile] and, if `writes_choices`, of
// weight[G,S,K] and expert_of[G,S,K].
template <class Team, class Gates, class Weights, class Experts, class Keys>
VMOE_HOST_DEVICE void choose_experts(const Team& team, const Tile& tile, const Gates& gates, bool writes_choices,
                                     const Weights& weight, const Experts& expert_of, const Keys& keys) {
  using Held = LaneGates<typename Gates::Value>;
  const uint32_t words = tile.experts / Held::Parts::kCount;
  typename Team::template Lanes<Held> held(team);
  typename Team::template Lanes<uint64_t> least(team);
  typename Team::template Lanes<uint64_t> other(team);
  typename Team::template Lanes<uint32_t> best_bits(team);
  for (uint32_t first = 0; first < tile.tokens; first += team.count()) {
    const uint32_t t = first + team.index();
    const bool is_token = t < tile.tokens;
    const uint32_t token = tile.first + t;
    const size_t row = (static_cast<size_t>(tile.group) * tile.group_tokens + token) * words;
    team.for_each_lane([&](uint32_t lane) {
      held[lane].read_row(gates, row, is_token ? words : 0, lane, tile.lanes);
      best_bits[lane] = 0;
    });
    for (uint32_t choice = 0; choice < tile.choices; ++choice) {
      team.for_each_lane([&](uint32_t lane) { least[lane] = held[lane].find_least(); });
      // A lane starts with its own minimum. Each exchange doubles the number of lanes that its minimum covers. After
      // the last exchange, every lane has the minimum of the whole team.
      for (uint32_t distance = tile.lanes / 2; distance > 0; distance /= 2) {
        team.exchange(least, distance, other);
        team.for_each_lane([&](uint32_t lane) { least[lane] = other[lane] < least[lane] ? other[lane] : least[lane]; });
      }
      team.for_each_lane([&](uint32_t lane) {
        const auto expert = static_cast<uint32_t>(least[lane]);
        if (choice == 0 && tile.batch_priority != 0) best_bits[lane] = static_cast<uint32_t>(least[lane] >> 32);
        if (!is_token || !held[lane].take(expert)) return;
        if (writes_choices) {
          weight.store(tile.pair_index(token, choice), gates.load_float(row * Held::Parts::kCount + expert));
          expert_of.store(tile.pair_index(token, choice), static_cast<int32_t>(expert));
        }
        keys.store(t * tile.choices + choice, make_key(expert, choice, best_bits[lane], token));
      });
    }
  }
}

// Phase 2. Divides the keys into chunks of kChunk keys and sorts each chunk. A key's position in its chunk is the
// number of smaller keys in the chunk. For each of its keys, a thread reads all keys of the chunk and writes one
// element of `sorted`.
template <class Keys>
VMOE_HOST_DEVICE void sort_chunks(uint32_t thread, uint32_t threads, uint32_t count, const Keys& keys,
                                  const Keys& sorted) {
  for (uint32_t i = thread; i < count; i += threads) {
    const Key key = keys.load(i);
    const uint32_t begin = i / kChunk * kChunk;
    const uint32_t end = begin + kChunk < count ? begin + kChunk : count;
    uint32_t smaller = 0;
    for (uint32_t j = begin; j < end; ++j) smaller += keys.load(j) < key ? 1 : 0;
    sorted.store(begin + smaller, key);
  }
}

// Phase 3, repeated until one run is left. Merges neighbouring sorted runs of `width` keys, kMergedRuns runs at a time.
// For each of its keys, a thread reads keys from all runs that are merged together with the key's own run. The thread
// then writes one element of `merged`.
template <class Keys>
VMOE_HOST_DEVICE void merge_runs(uint32_t thread, uint32_t threads, uint32_t count, uint32_t width, const Keys& keys,
                                 const Keys& merged) {
  for (uint32_t i = thread; i < count; i += threads) {
    const Key key = keys.load(i);
    const uint32_t run = i / width;
    const uint32_t others[kMergedRuns - 1] = {(run ^ 1u) * width, (run ^ 2u) * width, (run ^ 3u) * width};
    const uint32_t smaller = count_smaller_in_runs(keys, others, width, count, key);
    merged.store(run / kMergedRuns * kMergedRuns * width + i % width + smaller, key);
  }
}

// Part of phase 3. Runs together with the last merge, when at most kMergedRuns runs are left. For each expert, finds
// the index at which its keys will begin after this merge, and writes that index to `offsets`. offsets[E] is the end of
// the last expert's keys. Reads all keys. Each thread writes its own elements of offsets[E+1].
template <class Keys, class Offsets>
VMOE_HOST_DEVICE void find_experts(uint32_t thread, uint32_t threads, const Tile& tile, uint32_t width,
                                   const Keys& keys, const Offsets& offsets) {
  const uint32_t runs[kMergedRuns] = {0, width, 2 * width, 3 * width};
  for (uint32_t e = thread; e <= tile.experts; e += threads) {
    offsets.store(e, count_smaller_in_runs(keys, runs, width, tile.pairs(), make_key(e, 0, 0, 0)));
  }
}

// Returns the slot of the pair at `position` among the pairs of `expert`, or -1 if the expert has no slot for that
// position.
VMOE_HOST_DEVICE int32_t slot_at(const Tile& tile, uint32_t expert, uint32_t position) {
  if (position >= tile.capacity) return -1;
  return static_cast<int32_t>(tile.slot_index(expert, position));
}

// Phase 4 if the tile is the whole group. Writes the slot of every pair. Reads keys and offsets[E+1]. For each of its
// keys, a thread writes one element of slot[G,S,K].
template <class Keys, class Offsets, class Slots>
VMOE_HOST_DEVICE void give_slots(uint32_t thread, uint32_t threads, const Tile& tile, const Keys& keys,
                                 const Offsets& offsets, const Slots& slot) {
  for (uint32_t i = thread; i < tile.pairs(); i += threads) {
    const Key key = keys.load(i);
    const uint32_t expert = key_expert(key);
    slot.store(tile.pair_index(key_token(key), key_choice(key)), slot_at(tile, expert, i - offsets.load(expert)));
  }
}

// Returns the token in the slot that `expert` has at `position`, as an index among the tokens of all groups. If that
// slot is empty, returns -1. The tile must be the whole group. Reads keys and offsets[E+1].
template <class Keys, class Offsets>
VMOE_HOST_DEVICE int32_t source_of_slot(const Tile& tile, const Keys& keys, const Offsets& offsets, uint32_t expert,
                                        uint32_t position) {
  const uint32_t begin = offsets.load(expert);
  if (position >= offsets.load(expert + 1) - begin) return -1;
  return static_cast<int32_t>(tile.group * tile.group_tokens + key_token(keys.load(begin + position)));
}

// Phase 4 if the tile is the whole group. Runs together with give_slots. For each slot of the group, writes the token
// that the slot contains, or -1 if the slot is empty. Reads keys and offsets[E+1]. Each thread writes its own elements
// of src[E,M], where M is the number of slots per expert in all groups.
template <class Keys, class Offsets, class Sources>
VMOE_HOST_DEVICE void give_sources(uint32_t thread, uint32_t threads, const Tile& tile, const Keys& keys,
                                   const Offsets& offsets, const Sources& src) {
  for (uint32_t index = thread; index < tile.group_slots(); index += threads) {
    const uint32_t expert = index / tile.capacity;
    const uint32_t position = index % tile.capacity;
    src.store(tile.slot_index(expert, position), source_of_slot(tile, keys, offsets, expert, position));
  }
}

// Phase 4 if the group has several tiles. Copies the tile's sorted keys and offsets to `tile_keys` and `tile_offsets`.
// The next launch reads them from there. Reads keys and offsets[E+1]. Each thread writes its own elements of this
// tile's part of tile_keys and tile_offsets.
template <class Keys, class Offsets, class TileKeys, class TileOffsets>
VMOE_HOST_DEVICE void publish_tile(uint32_t thread, uint32_t threads, const Tile& tile, const Keys& keys,
                                   const Offsets& offsets, size_t first_key, const TileKeys& tile_keys,
                                   size_t first_offset, const TileOffsets& tile_offsets) {
  for (uint32_t i = thread; i < tile.pairs(); i += threads) tile_keys.store(first_key + i, keys.load(i));
  for (uint32_t e = thread; e <= tile.experts; e += threads) tile_offsets.store(first_offset + e, offsets.load(e));
}

// Part of phase 4 if the group has several tiles. Runs together with publish_tile. Marks this tile's share of the
// group's slots as empty: writes -1 to the elements of src for these slots.
template <class Sources>
VMOE_HOST_DEVICE void empty_slots(uint32_t thread, uint32_t threads, const Tile& tile, size_t tile_index,
                                  size_t tile_count, const Sources& src) {
  for (size_t index = tile_index * threads + thread; index < tile.group_slots(); index += tile_count * threads) {
    const auto expert = static_cast<uint32_t>(index / tile.capacity);
    src.store(tile.slot_index(expert, static_cast<uint32_t>(index % tile.capacity)), -1);
  }
}

// The second launch's only phase, for groups of several tiles. To find the position of a pair, counts the smaller keys
// of the pair's expert in every tile of the group. Reads tile_keys[G, tiles, tile_stride] and
// tile_offsets[G, tiles, E+1]. Writes the pair's elements of slot[G,S,K] and src[E,M]. M is the number of slots per
// expert in all groups.
template <class TileKeys, class TileOffsets, class Slots, class Sources>
VMOE_HOST_DEVICE void rank_pair(const Tile& tile, uint32_t tile_count, uint32_t tile_stride, uint32_t pair,
                                const TileKeys& tile_keys, const TileOffsets& tile_offsets, const Slots& slot,
                                const Sources& src) {
  const size_t first_tile = static_cast<size_t>(tile.group) * tile_count;
  const Key key = tile_keys.load(first_tile * tile_stride + pair);
  const uint32_t expert = key_expert(key);
  uint32_t position = 0;
  for (size_t other = first_tile; other < first_tile + tile_count && position < tile.capacity; ++other) {
    const size_t offset = other * (tile.experts + 1) + expert;
    const size_t first = other * tile_stride;
    position += count_smaller(tile_keys, first + tile_offsets.load(offset), first + tile_offsets.load(offset + 1), key);
  }
  const int32_t index = slot_at(tile, expert, position);
  slot.store(tile.pair_index(key_token(key), key_choice(key)), index);
  if (index >= 0) {
    src.store(static_cast<size_t>(index), static_cast<int32_t>(tile.group * tile.group_tokens + key_token(key)));
  }
}

}  // namespace vmoe::cuda
