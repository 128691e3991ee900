#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <regex>

namespace {

// Parses LOW:HIGH[:N] and adds N capacity ratios from LOW to HIGH to `ratios`. The ratios are evenly spaced on a log
// scale and rounded to three digits. Throws UsageError if `text` is not such a range.
void add_sweep(const std::string& text, std::vector<double>& ratios) {
  const std::vector<std::string> parts = CLI::detail::split(text, ':');
  double low = 0, high = 0;
  int steps = kSteps;
  const bool is_read = (parts.size() == 2 || parts.size() == 3) && CLI::detail::lexical_cast(parts[0], low) &&
                       CLI::detail::lexical_cast(parts[1], high) &&
                       (parts.size() == 2 || CLI::detail::lexical_cast(parts[2], steps));
  if (!is_read || !(0 < low && low < high && std::isfinite(high)) || steps < 2 || steps > kMostSteps) {
    throw UsageError("--sweep: '" + text.substr(0, 40) +
                     "' is not a range of capacity ratios such as 0.1:2.0, or 0.1:2.0:12 for 12 of them");
  }
  for (int i = 0; i < steps; ++i) {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.3g", low * std::pow(high / low, static_cast<double>(i) / (steps - 1)));
    ratios.push_back(std::strtod(digits, nullptr));
  }
}

// Returns a model name for a bundle, made from its folder's name in the same way as in the Python service. Each run of
// characters that a model name can't contain becomes '-'.
std::string folder_name(const std::string& bundle) {
  const std::string folder = std::filesystem::weakly_canonical(bundle).filename().string();
  const std::string name = std::regex_replace(folder, std::regex("\\.vmoe$|[^A-Za-z0-9._-]+"), "-");
  const size_t begin = name.find_first_not_of("-._"), end = name.find_last_not_of("-._") + 1;
  return begin == std::string::npos ? "model" : name.substr(begin, std::min<size_t>(end - begin, kMaxName));
}

void check(const Options& options) {
  if (options.slo_ms == 0 && (!options.capacity.empty() || options.profiles.size() > 1)) {
    throw UsageError("several settings need --slo-ms, which chooses between them; without it --profile takes one");
  }
  if (!options.capacity.empty() && options.profiles.size() > 1) {
    throw UsageError("--sweep and --capacity change the capacity of one --profile, not of several");
  }
  if (options.max_waiting < options.batch_size) {
    throw UsageError("--max-waiting " + std::to_string(options.max_waiting) + " is less than --batch-size " +
                     std::to_string(options.batch_size) + ", the images of a call");
  }
}

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  std::vector<std::string> sweeps;
  CLI::App app(
      "Serve a bundle over HTTP. POST /v1/classify (or features) takes a picture or JSON, POST /v2/models/NAME/infer "
      "the Open Inference Protocol; GET /healthz and /metrics report its state. SIGTERM and Ctrl-C stop it after it "
      "has answered the requests that have arrived.",
      "vmoe-serve-http");
  const auto add = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str()->allow_extra_args(false);
  };
  add("BUNDLE", options.bundle, "Folder NAME.vmoe")->required();
  const CLI::Validator above_zero(
      [](std::string& text) {
        return std::strtod(text.c_str(), nullptr) > 0 ? std::string() : "must be above 0, not " + text;
      },
      "");
  add("--slo-ms", options.slo_ms, "Latency target of elastic capacity: milliseconds from a request to its answer")
      ->check(above_zero & CLI::Range(0.0, kMaxSloMs));
  add("--sweep", sweeps, "LOW:HIGH[:N]: 8 or N capacity ratios for --slo-ms to choose between; repeatable");
  add("--capacity", options.capacity, "A capacity ratio for --slo-ms to choose; repeatable")->check(above_zero);
  add("--profile", options.profiles,
      "A profile for --slo-ms to choose, the least accurate first; repeatable. Without "
      "--slo-ms the profile of all requests");
  add("--name", options.name, "Name of the model in addresses; default: that of the folder")
      ->check([](const std::string& text) {
        const bool fits = std::regex_match(text, std::regex(kNamePattern));
        return fits ? std::string()
                    : "takes 1 to 100 letters, digits, '.', '_' and '-', and begins with none of '.' and '-'";
      });
  add("--host", options.host, "Address to listen on");
  add("--port", options.port, "Port to listen on; 0 takes a free one");
  for (const NumberOption& option : kNumberOptions) {
    add(option.name, options.*option.value, option.help)->check(CLI::Range(1, option.maximum));
  }
  add("--connections", options.connections, "Maximum number of connections; further ones get 503")
      ->check(CLI::Range(1, 65536));
  add("--threads", options.threads, "Threads per call; default: the runtime's choice")->check(CLI::PositiveNumber);
  auto* cert = add("--tls-cert", options.tls_cert, "PEM file of a certificate chain: serve HTTPS");
  cert->needs(add("--tls-key", options.tls_key, "PEM file of its private key")->needs(cert));
  app.add_flag("-q,--quiet", options.quiet, "Print nothing but errors");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::exit(app.exit(help));
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + "; --help lists the options");
  }
  for (const std::string& sweep : sweeps) add_sweep(sweep, options.capacity);
  std::sort(options.capacity.begin(), options.capacity.end());
  check(options);
  if (options.name.empty()) options.name = folder_name(options.bundle);
  return options;
}
