// The program that computes the gates of a router, softmax(x . router), on the GPU and on the CPU. Each warp of lanes
// computes the gates of kGateTokens tokens. It computes their logits in rounds, for kGateExperts experts per round.
//
// The results for a token do not depend on the other tokens in the batch, because every sum is computed in a fixed
// order. Each lane first sums the products of its part of the depth D. The lanes then exchange these partial sums and
// add them up.
//
// A Warp provides:
// - Lanes<T>, which stores one T per lane; a lane sees only its own T;
// - for_each_lane(f), which calls f(lane) for every lane;
// - exchange(of, distance, other), which copies `of[lane ^ distance]` to `other[lane]` for every lane.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "cuda/limits.h"
#include "cuda/warp.h"
#include "cuda/words.h"

namespace vmoe::cuda {

inline constexpr uint32_t kGateLanes = kWarp;
inline constexpr uint32_t kGateTokens = 4;   // per warp
inline constexpr uint32_t kGateExperts = 8;  // experts per round; each lane then ends with one (token, expert) pair
inline constexpr uint32_t kGateDepth = 4;    // number of values of a token that a lane reads at once
inline constexpr uint32_t kGatePairs = kGateTokens * kGateExperts;
static_assert(kGatePairs == kGateLanes);

// Number of rounds needed for the maximum number of experts.
inline constexpr uint32_t kMostGateRounds = kMostExperts / kGateExperts;

struct GateShape {
  uint32_t tokens;
  uint32_t hidden;
  uint32_t experts;
};

VMOE_HOST_DEVICE float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fmaf(a, b, c);
#endif
}

// Returns exp(x) for x <= 0 or NaN, with an error of at most two units in the last place. Results below 2^-125 become
// 0. The results have the same bits on the CPU and on the GPU, because every multiply-add is an explicit fma. Compilers
// therefore can't choose how to round it.
VMOE_HOST_DEVICE float exp_of_negative(float x) {
  if (x < -86.6f) return 0.0f;
  if (x != x) return x;
  constexpr float kLog2OfE = 1.44269504f;
  constexpr float kWholeOnly = 12582912.0f;  // 1.5 * 2^23: adding this to a float rounds the float to a whole number
  constexpr float kLn2 = 0.693359375f;       // few bits, so that kLn2 * exponent is exact; ln 2 is kLn2 - kLn2Excess
  constexpr float kLn2Excess = 2.12194440e-4f;
  const float exponent = multiply_add(x, kLog2OfE, kWholeOnly) - kWholeOnly;
  const float rest = multiply_add(exponent, kLn2Excess, multiply_add(exponent, -kLn2, x));
  constexpr float kInverseFactorials[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  float power = 1.0f / 5040;
  VMOE_UNROLL for (const float term : kInverseFactorials) power = multiply_add(power, rest, term);
  uint32_t bits;
  std::memcpy(&bits, &power, sizeof(bits));
  bits += static_cast<uint32_t>(static_cast<int32_t>(exponent)) << 23;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}

// One lane's partial sums for the (token, expert) pairs of one round. The sum of a pair is at index
// token * kGateExperts + expert.
struct PairSums {
  float at[kGatePairs];
};

// Computes one lane's partial sums over its part of the depth. A token's values are divided into runs of kGateLanes *
// kGateDepth values. In each run, the lane's part is the kGateDepth values that start at lane * kGateDepth. The parts
// do not depend on whether a word, which a lane loads at once, contains one number or four. The sums therefore have
// the same bits for both kinds of words. Tokens and experts past the end add zeros.
template <class Word>
VMOE_HOST_DEVICE void add_products(uint32_t lane, const GateShape& shape, size_t first_token, uint32_t first_expert,
                                   const Word* x, const Word* router, PairSums* sums) {
  constexpr uint32_t kNumbers = Elements<float, Word>::kCount;
  VMOE_UNROLL for (float& sum : sums->at) sum = 0;
  for (uint32_t first = lane * kGateDepth; first < shape.hidden; first += kGateLanes * kGateDepth) {
    float values[kGateTokens][kGateDepth];
    VMOE_UNROLL for (uint32_t t = 0; t < kGateTokens; ++t) {
      VMOE_UNROLL for (uint32_t i = 0; i < kGateDepth; i += kNumbers) {
        Word word = {};
        if (first_token + t < shape.tokens && first + i < shape.hidden) {
          word = x[((first_token + t) * shape.hidden + first + i) / kNumbers];
        }
        std::memcpy(&values[t][i], &word, sizeof(word));
      }
    }
    VMOE_UNROLL for (uint32_t i = 0; i < kGateDepth; ++i) {
      const size_t row = (static_cast<size_t>(first) + i) * shape.experts;
      VMOE_UNROLL for (uint32_t e = 0; e < kGateExperts; e += kNumbers) {
        Word word = {};
        if (first + i < shape.hidden && first_expert + e < shape.experts) {
          word = router[(row + first_expert + e) / kNumbers];
        }
        float columns[kNumbers];
        std::memcpy(&columns, &word, sizeof(word));
        VMOE_UNROLL for (uint32_t j = 0; j < kNumbers; ++j) {
          VMOE_UNROLL for (uint32_t t = 0; t < kGateTokens; ++t) {
            float& sum = sums->at[t * kGateExperts + e + j];
            sum = multiply_add(values[t][i], columns[j], sum);
          }
        }
      }
    }
  }
}

// Adds up the partial sums of all lanes. Afterwards, at[0] of lane p contains the total of pair p. In each step, lane
// `lane` and lane `lane ^ kHalf` share the work on the first 2 * kHalf pairs. Each of these two lanes keeps one half of
// the pairs and sends its sums for the other half to its partner.
template <uint32_t kHalf, class Warp, class Shares, class Values>
VMOE_HOST_DEVICE void add_shares(const Warp& warp, Shares& shares, Values& given, Values& taken) {
  VMOE_UNROLL for (uint32_t i = 0; i < kHalf; ++i) {
    warp.for_each_lane([&](uint32_t lane) {
      float* const at = shares[lane].at;
      const float low = at[i];
      const float high = at[i + kHalf];
      const bool keeps_high = (lane & kHalf) != 0;
      given[lane] = keeps_high ? low : high;
      at[i] = keeps_high ? high : low;
    });
    warp.exchange(given, kHalf, taken);
    warp.for_each_lane([&](uint32_t lane) { shares[lane].at[i] += taken[lane]; });
  }
  if constexpr (kHalf > 1) add_shares<kHalf / 2>(warp, shares, given, taken);
}

// Computes the gates of up to kGateTokens tokens, starting at `first_token`. Tokens past the end of x are skipped.
// The number of experts must be at most kRounds * kGateExperts. A word of x or of the router contains either
// one number or kGateDepth numbers. Each row must consist of whole words. Reads x[tokens,D] and router[D,E]. Writes
// gates[tokens,E] for these tokens.
template <uint32_t kRounds, class Warp, class Word>
VMOE_HOST_DEVICE void compute_gates(const Warp& warp, const GateShape& shape, size_t first_token, const Word* x,
                                    const Word* router, float* gates) {
  struct Logits {
    float at[kRounds];
  };
  typename Warp::template Lanes<PairSums> shares(warp);
  typename Warp::template Lanes<Logits> logits(warp);
  typename Warp::template Lanes<float> mine(warp);
  typename Warp::template Lanes<float> other(warp);
  constexpr float kNone = -INFINITY;
  for (uint32_t round = 0; round * kGateExperts < shape.experts; ++round) {
    const uint32_t first_expert = round * kGateExperts;
    warp.for_each_lane(
        [&](uint32_t lane) { add_products(lane, shape, first_token, first_expert, x, router, &shares[lane]); });
    add_shares<kGatePairs / 2>(warp, shares, mine, other);
    warp.for_each_lane([&](uint32_t lane) {
      const bool is_expert = first_expert + lane % kGateExperts < shape.experts;
      const float logit = is_expert ? shares[lane].at[0] : kNone;
      VMOE_UNROLL for (uint32_t r = 0; r < kRounds; ++r) logits[lane].at[r] = r == round ? logit : logits[lane].at[r];
    });
  }
  // Finds the largest logit of each token, then sums exp(logit - largest) over the experts.
  warp.for_each_lane([&](uint32_t lane) {
    mine[lane] = kNone;
    VMOE_UNROLL for (uint32_t r = 0; r < kRounds; ++r) {
      if (r * kGateExperts >= shape.experts) break;
      mine[lane] = logits[lane].at[r] > mine[lane] ? logits[lane].at[r] : mine[lane];
    }
  });
  VMOE_UNROLL for (uint32_t distance = kGateExperts / 2; distance > 0; distance /= 2) {
    warp.exchange(mine, distance, other);
    warp.for_each_lane([&](uint32_t lane) { mine[lane] = other[lane] > mine[lane] ? other[lane] : mine[lane]; });
  }
  warp.for_each_lane([&](uint32_t lane) {
    const float most = mine[lane];
    mine[lane] = 0;
    VMOE_UNROLL for (uint32_t r = 0; r < kRounds; ++r) {
      if (r * kGateExperts >= shape.experts) break;
      logits[lane].at[r] = exp_of_negative(logits[lane].at[r] - most);
      mine[lane] += logits[lane].at[r];
    }
  });
  VMOE_UNROLL for (uint32_t distance = kGateExperts / 2; distance > 0; distance /= 2) {
    warp.exchange(mine, distance, other);
    warp.for_each_lane([&](uint32_t lane) { mine[lane] += other[lane]; });
  }
  warp.for_each_lane([&](uint32_t lane) {
    const size_t token = first_token + lane / kGateExperts;
    VMOE_UNROLL for (uint32_t r = 0; r < kRounds; ++r) {
      const uint32_t expert = r * kGateExperts + lane % kGateExperts;
      if (token < shape.tokens && expert < shape.experts) {
        gates[token * shape.experts + expert] = logits[lane].at[r] / mine[lane];
      }
    }
  });
}

}  // namespace vmoe::cuda
