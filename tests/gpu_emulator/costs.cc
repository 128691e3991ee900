#include "costs.h"

#include <algorithm>
#include <array>
#include <tuple>

namespace gpu_emulator {
namespace {

constexpr uint64_t kSectorBytes = 32;
constexpr uint64_t kBanks = 32;
constexpr uint64_t kBankBytes = 4;
constexpr uint64_t kWarp = 32;

}  // namespace

void Costs::begin_launch(const std::string& kernel, size_t instructions, uint64_t runs) {
  current_ = &by_kernel_[kernel];
  instructions_ = instructions;
  runs_before_ = runs;
  launch_sectors_.clear();
}

void Costs::begin_block(uint32_t threads) {
  current_->threads += threads;
  executions_.assign(threads * instructions_, 0);
  lanes_.clear();
}

void Costs::count(uint32_t thread, size_t instruction, uint64_t address, uint32_t bytes, bool is_shared,
                  bool is_store) {
  const uint32_t execution = executions_[thread * instructions_ + instruction]++;
  lanes_.push_back({thread, static_cast<uint32_t>(instruction), execution, bytes, address, is_shared, is_store});
}

void Costs::end_block() {
  std::set<std::pair<uint64_t, bool>> sectors;
  for (const Lane& lane : lanes_) {
    if (!lane.is_shared) sectors.insert({lane.address / kSectorBytes, lane.is_store});
  }
  current_->distinct_sectors += sectors.size();
  launch_sectors_.insert(sectors.begin(), sectors.end());
  const auto request_of = [](const Lane& lane) {
    return std::make_tuple(lane.instruction, lane.thread / kWarp, lane.execution);
  };
  std::sort(lanes_.begin(), lanes_.end(), [&](const Lane& a, const Lane& b) {
    return std::make_pair(request_of(a), a.thread) < std::make_pair(request_of(b), b.thread);
  });
  const Lane* const all_end = lanes_.data() + lanes_.size();
  for (const Lane* first = lanes_.data(); first < all_end;) {
    const Lane* const end =
        std::find_if(first, all_end, [&](const Lane& lane) { return request_of(lane) != request_of(*first); });
    first->is_shared ? add_shared_request(first, end) : add_request(first, end);
    first = end;
  }
}

void Costs::end_launch(uint64_t runs) {
  current_->instructions += runs - runs_before_;
  current_->launch_sectors += launch_sectors_.size();
}

void Costs::add_request(const Lane* first, const Lane* end) {
  std::set<uint64_t> sectors;
  for (const Lane* lane = first; lane < end; ++lane) {
    sectors.insert(lane->address / kSectorBytes);
    current_->bytes += lane->bytes;
  }
  ++current_->requests;
  current_->sectors += sectors.size();
}

// A cycle serves each bank once, at any number of lanes that access the same 4 bytes of it. Lanes that access 8 or 16
// bytes each take their turns in 2 or 4 parts of the warp.
void Costs::add_shared_request(const Lane* first, const Lane* end) {
  ++current_->shared_requests;
  const uint64_t lanes_per_part = kWarp * kBankBytes / std::max<uint64_t>(first->bytes, kBankBytes);
  const auto part_of = [&](const Lane& lane) { return lane.thread % kWarp / lanes_per_part; };
  while (first < end) {
    std::array<std::set<uint64_t>, kBanks> words;
    for (const uint64_t part = part_of(*first); first < end && part_of(*first) == part; ++first) {
      const uint64_t last = (first->address + first->bytes - 1) / kBankBytes;
      for (uint64_t word = first->address / kBankBytes; word <= last; ++word) words[word % kBanks].insert(word);
    }
    size_t cycles = 0;
    for (const std::set<uint64_t>& of_bank : words) cycles = std::max(cycles, of_bank.size());
    ++current_->shared_cycles;
    current_->conflicts += cycles - 1;
  }
}

}  // namespace gpu_emulator
