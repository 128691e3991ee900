// Decides as it is told: lines of `plan`, `decide` and `served` from standard input, an answer for each line.
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>

#include "vmoe/elastic.hpp"

namespace {

// Streams don't read the hexadecimal numbers that keep every bit.
double number(std::istringstream& line) {
  std::string word;
  line >> word;
  return std::strtod(word.c_str(), nullptr);
}

void refuse(const vmoe::Error& error) { std::printf("error %d %s\n", error.code, error.message.c_str()); }

}  // namespace

int main() {
  std::optional<vmoe::Elastic> elastic;
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "plan") {
      vmoe::ElasticPlan plan;
      plan.target = number(line);
      const double time = number(line);
      size_t levels = 0;
      line >> plan.most_images >> plan.multiple >> levels;
      for (size_t i = 0; i < levels; ++i) {
        const double fixed = number(line);
        plan.levels.push_back({fixed, number(line)});
      }
      auto created = vmoe::Elastic::create(plan, time);
      if (!created) {
        refuse(created.error());
        continue;
      }
      elastic = std::move(*created);
      std::printf("ok\n");
    } else if (word == "decide") {
      vmoe::ElasticSeen seen;
      seen.time = number(line);
      seen.oldest = number(line);
      line >> seen.waiting >> seen.arrived;
      const auto next = elastic->decide(seen);
      if (!next) {
        refuse(next.error());
        continue;
      }
      std::printf("%zu %" PRId64 " %a\n", next->level, next->images, next->load);
    } else {
      int64_t level = 0, images = 0;
      line >> level >> images;
      const auto level_of = elastic->served(static_cast<size_t>(level), images, number(line));
      if (!level_of) {
        refuse(level_of.error());
        continue;
      }
      std::printf("ok\n");
    }
  }
}
