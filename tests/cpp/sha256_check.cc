// Hashes the beginnings of standard input in every way of this processor, in pieces of random sizes. Arguments: the
// number of bytes of each beginning. Prints "WAY BYTES DIGEST" lines; and with --speed as the only argument, "WAY
// GB/s".
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "sdk/sha256.h"

namespace {

using vmoe::sdk::Sha256;
using vmoe::sdk::Sha256Way;

// Up to two blocks, a few of them, or much: pieces end before, at and behind ends of blocks.
size_t piece_bytes(std::mt19937& random) {
  const size_t most[] = {2, 130, 5000};
  return random() % most[random() % 3];
}

std::string in_pieces(const Sha256Way& way, const std::string& data, std::mt19937& random) {
  Sha256 hash(way);
  for (size_t done = 0; done < data.size();) {
    const size_t piece = std::min(piece_bytes(random), data.size() - done);
    hash.update(data.data() + done, piece);
    done += piece;
  }
  return hash.hex();
}

void print_speed(const Sha256Way& way) {
  const std::string data(64 << 20, 'v');
  const auto start = std::chrono::steady_clock::now();
  Sha256 hash(way);
  hash.update(data.data(), data.size());
  const bool used = !hash.hex().empty();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s %.2f\n", way.name, used ? static_cast<double>(data.size()) / seconds.count() / 1e9 : 0);
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && std::strcmp(arguments[1], "--speed") == 0) {
    for (const Sha256Way& way : vmoe::sdk::sha256_ways()) print_speed(way);
    return 0;
  }
  std::string data;
  char chunk[4096];
  while (const size_t read = std::fread(chunk, 1, sizeof(chunk), stdin)) data.append(chunk, read);
  std::mt19937 random(7);  // NOLINT: the same pieces every time
  for (const Sha256Way& way : vmoe::sdk::sha256_ways()) {
    for (int i = 1; i < count; ++i) {
      const std::string beginning = data.substr(0, std::strtoul(arguments[i], nullptr, 10));
      std::printf("%s %zu %s\n", way.name, beginning.size(), in_pieces(way, beginning, random).c_str());
    }
  }
  return 0;
}
