// The command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "generated/endpoints.h"

// A mistake in the command line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options : NumberOptions {
  std::string bundle;
  std::string name;                   // of the model, in addresses
  double slo_ms = 0;                  // latency target; 0 uses one profile for all requests
  std::vector<double> capacity;       // ratios for elastic capacity, rising; if empty, `profiles` apply
  std::vector<std::string> profiles;  // for elastic capacity, in order of rising accuracy; or one for all requests
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  size_t connections = 128;       // at once
  int threads = 0;                // per call; if 0, ONNX Runtime chooses
  std::string tls_cert, tls_key;  // PEM files
  bool quiet = false;
};

// Prints the help and exits on --help. Throws UsageError.
Options parse_options(int argc, char** argv);
