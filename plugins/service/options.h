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
  double slo_ms = 0;                  // latency target; 0: one profile for all requests
  std::vector<double> capacity;       // ratios of elastic capacity, rising; empty: the profiles
  std::vector<std::string> profiles;  // of elastic capacity, the least accurate first; or the fixed one
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  size_t connections = 128;       // at once
  int threads = 0;                // per call; 0 leaves the choice to ONNX Runtime
  std::string tls_cert, tls_key;  // PEM files
  bool quiet = false;
};

// Prints the help and exits if that is requested. Throws UsageError.
Options parse_options(int argc, char** argv);
