// The command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "generated/endpoints.h"

// A usage error of the command line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options : NumberOptions {
  std::string bundle;
  std::string name;                   // name of the model in URLs
  double slo_ms = 0;                  // latency target in milliseconds; if 0, one profile serves all requests
  std::vector<double> capacity;       // rising capacity ratios; if empty, elastic capacity uses `profiles`
  std::vector<std::string> profiles;  // for elastic capacity, the least accurate first; or one for all requests
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  size_t connections = 128;       // at once
  int threads = 0;                // threads per call; if 0, ONNX Runtime chooses
  std::string tls_cert, tls_key;  // PEM files
  bool quiet = false;
};

// Parses the command line. On --help, prints the help and exits. Throws UsageError.
Options parse_options(int argc, char** argv);
