#include "cuda/route_plan.h"

#include <algorithm>

#include "core/tiles.h"
#include "cuda/limits.h"
#include "cuda/warp.h"

namespace vmoe::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr unsigned kMinThreads = 128;
constexpr const char* kExpertsRefusal = "there must be 1 to 256 experts";
static_assert(kMostExperts <= size_t{kWarp} * kLaneGates);

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
  Groups groups{};
  groups.count = static_cast<uint32_t>(shape.groups);
  groups.tokens = static_cast<uint32_t>(shape.tokens);
  groups.experts = static_cast<uint32_t>(shape.experts);
  groups.choices = static_cast<uint32_t>(shape.choices);
  groups.capacity = static_cast<uint32_t>(shape.capacity);
  groups.slots = static_cast<uint32_t>(shape.slots());
  groups.batch_priority = shape.batch_priority ? 1 : 0;
  groups.tile_tokens = std::max(1u, std::min(groups.tokens, kTilePairs / groups.choices));
  groups.tiles = std::max(1u, (groups.tokens + groups.tile_tokens - 1) / groups.tile_tokens);
  groups.lanes = 1;
  while (groups.lanes * kLaneGates < groups.experts) groups.lanes *= 2;
  const uint32_t useful = groups.tile_tokens * std::max(groups.lanes, groups.choices);
  return {groups, std::clamp(static_cast<unsigned>(round_up(useful, kWarp)), kMinThreads, kTileThreads)};
}

size_t tile_shared_bytes(const Groups& groups) {
  return size_t{2} * groups.tile_stride() * sizeof(Key) + (groups.experts + 1) * sizeof(uint32_t);
}

RouteWorkspace plan_workspace(const RoutePlan& plan, bool with_src) {
  RouteWorkspace workspace{};
  if (plan.single_tile()) return workspace;
  const Groups& groups = plan.groups;
  const size_t tiles = size_t{groups.count} * groups.tiles;
  workspace.offsets = round_up(tiles * groups.tile_stride() * sizeof(Key), kAlignment);
  workspace.src = workspace.offsets + round_up(tiles * (groups.experts + 1) * sizeof(uint32_t), kAlignment);
  workspace.bytes = workspace.src;
  if (with_src) workspace.bytes += round_up(size_t{groups.experts} * groups.slots * sizeof(int32_t), kAlignment);
  return workspace;
}

size_t route_workspace_bytes(const RoutingShape& shape) { return plan_workspace(plan_route(shape), false).bytes; }

size_t route_dispatch_workspace_bytes(const RoutingShape& shape) {
  return plan_workspace(plan_route(shape), true).bytes;
}

}  // namespace vmoe::cuda
