// The command line.
#ifndef VMOE_HTTP_OPTIONS_H_
#define VMOE_HTTP_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// A command line that makes no sense, in one sentence.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string bundle;
  std::string name;                   // of the model, in addresses
  double target = 0;                  // seconds from a request's submission to its answer; 0: one setting for all
  std::vector<double> capacity;       // ratios that elastic capacity chooses from, rising; empty: the profiles
  std::vector<std::string> profiles;  // to choose from, the least accurate first; or the fixed one
  std::string host = "127.0.0.1";
  int port = 8000;
  int64_t most_images = 16;    // of a call and of a request
  int64_t most_waiting = 256;  // images
  size_t most_bytes = size_t{16} << 20;
  size_t connections = 128;  // at once
  int request_seconds = 10;  // for a request to arrive, and for its answer to be taken
  int threads = 0;           // per call; 0 leaves the choice to ONNX Runtime
  bool quiet = false;
  bool help = false;
};

extern const char kHelp[];

// Throws UsageError.
Options parse_options(const std::vector<std::string>& words);

#endif  // VMOE_HTTP_OPTIONS_H_
