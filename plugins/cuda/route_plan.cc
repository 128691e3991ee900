#include "cuda/route_plan.h"

#include <algorithm>

#include "cuda/limits.h"

namespace vmoe::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kMinThreads = 128;
constexpr size_t kWarp = 32;
constexpr const char* kExpertsRefusal = "there must be 1 to 256 experts";
static_assert(kMostExperts <= kWarp * kLaneGates);

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

const char* gates_refusal(size_t tokens, size_t hidden, size_t experts) {
  if (experts < 1 || experts > kMostExperts) return kExpertsRefusal;
  if (tokens > INT32_MAX || hidden > INT32_MAX) return "tokens and their numbers must be at most 2147483647";
  return nullptr;
}

const char* routing_refusal(const RoutingShape& shape) {
  if (shape.experts < 1 || shape.experts > kMostExperts) return kExpertsRefusal;
  if (shape.choices < 1 || shape.choices > kMostChoices || shape.choices > shape.experts) {
    return "k must be between 1 and the number of experts, and at most 8";
  }
  if (shape.tokens > kMostTokens) return "a group must have at most 65536 tokens";
  if (shape.capacity < 1) return "capacity must be at least 1";
  if (shape.has_policies()) return "on a GPU pool must be 0 and max_experts at least the number of experts";
  const size_t pairs = std::max<size_t>(1, shape.tokens * shape.choices);
  if (shape.groups > INT32_MAX / pairs ||
      (shape.groups > 0 && shape.capacity > INT32_MAX / shape.experts / shape.groups)) {
    return "slots and pairs of a token and an expert must be at most 2147483647";
  }
  return nullptr;
}

RoutePlan plan_route(const RoutingShape& shape) {
  RoutePlan plan{};
  plan.tile_tokens = std::max<size_t>(1, std::min(shape.tokens, kTilePairs / shape.choices));
  plan.tiles = std::max<size_t>(1, (shape.tokens + plan.tile_tokens - 1) / plan.tile_tokens);
  plan.lanes = 1;
  while (plan.lanes * kLaneGates < shape.experts) plan.lanes *= 2;
  const size_t useful = plan.tile_tokens * std::max(plan.lanes, shape.choices);
  plan.threads = std::clamp<size_t>(round_up(useful, kWarp), kMinThreads, kTileThreads);
  return plan;
}

Groups groups_of(const RoutingShape& shape, const RoutePlan& plan) {
  Groups groups{};
  groups.count = static_cast<uint32_t>(shape.groups);
  groups.tiles = static_cast<uint32_t>(plan.tiles);
  groups.tile_tokens = static_cast<uint32_t>(plan.tile_tokens);
  groups.tokens = static_cast<uint32_t>(shape.tokens);
  groups.experts = static_cast<uint32_t>(shape.experts);
  groups.choices = static_cast<uint32_t>(shape.choices);
  groups.capacity = static_cast<uint32_t>(shape.capacity);
  groups.slots = static_cast<uint32_t>(shape.slots());
  groups.batch_priority = shape.batch_priority ? 1 : 0;
  groups.lanes = static_cast<uint32_t>(plan.lanes);
  return groups;
}

size_t tile_shared_bytes(const RoutingShape& shape, const RoutePlan& plan) {
  return 2 * plan.tile_tokens * shape.choices * sizeof(Key) + (shape.experts + 1) * sizeof(uint32_t);
}

RouteWorkspace plan_workspace(const RoutingShape& shape, const RoutePlan& plan, bool with_src) {
  RouteWorkspace workspace{};
  if (plan.single_tile()) return workspace;
  const size_t tiles = shape.groups * plan.tiles;
  workspace.offsets = round_up(tiles * plan.tile_tokens * shape.choices * sizeof(Key), kAlignment);
  workspace.src = workspace.offsets + round_up(tiles * (shape.experts + 1) * sizeof(uint32_t), kAlignment);
  workspace.bytes = workspace.src;
  if (with_src) workspace.bytes += round_up(shape.experts * shape.slots() * sizeof(int32_t), kAlignment);
  return workspace;
}

size_t route_workspace_bytes(const RoutingShape& shape) {
  return plan_workspace(shape, plan_route(shape), false).bytes;
}

size_t route_dispatch_workspace_bytes(const RoutingShape& shape) {
  return plan_workspace(shape, plan_route(shape), true).bytes;
}

}  // namespace vmoe::cuda
