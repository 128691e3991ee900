// The command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "generated/endpoints.h"

// An error in the user's command line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options : NumberOptions {
  std::string bundle;
  std::string name;                   // name of the model in URLs
  double slo_ms = 0;                  // latency target in milliseconds; 0 if one profile serves all requests
  std::vector<double> capacity;       // rising capacity ratios for elastic capacity; if empty, `profiles` applies
  std::vector<std::string> profiles;  // profiles for elastic capacity, least accurate first, or one for all requests
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  size_t connections = 128;       // at once
  int threads = 0;                // threads per call; 0 if ONNX Runtime chooses the number
  std::string tls_cert, tls_key;  // PEM files
  bool quiet = false;
};

// Parses the command line. For --help, prints the help and exits. Throws UsageError if the command line is invalid.
Options parse_options(int argc, char** argv);
