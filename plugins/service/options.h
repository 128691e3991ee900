// The command line.
#ifndef VMOE_SERVICE_OPTIONS_H_
#define VMOE_SERVICE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// A command line that makes no sense, in one message.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string bundle;
  std::string name;                   // of the model, in addresses
  double slo_ms = 0;                  // from a request's submission to its answer; 0: one profile for all
  std::vector<double> capacity;       // ratios that elastic capacity chooses from, rising; empty: the profiles
  std::vector<std::string> profiles;  // to choose from, the least accurate first; or the fixed one
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  int64_t batch_size = 16;        // most images of a call and of a request
  int64_t max_waiting = 256;      // images
  size_t max_body = 16;           // megabytes
  size_t connections = 128;       // at once
  int request_seconds = 10;       // for a request to arrive, and for its answer to be taken
  int threads = 0;                // per call; 0 leaves the choice to ONNX Runtime
  std::string tls_cert, tls_key;  // PEM files
  bool quiet = false;
};

// Prints the help and ends the process where that is requested. Throws UsageError.
Options parse_options(int argc, char** argv);

#endif  // VMOE_SERVICE_OPTIONS_H_
