#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

namespace {

constexpr double kMostMs = 600'000;
constexpr int kSteps = 8, kMostSteps = 1000;

constexpr char kNameCharacters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

// LOW:HIGH[:N]: N ratios that are spaced by equal factors and rounded to three digits.
void add_sweep(const std::string& text, std::vector<double>& ratios) {
  const std::vector<std::string> parts = CLI::detail::split(text, ':');
  double low = 0, high = 0;
  int steps = kSteps;
  const bool is_read = (parts.size() == 2 || parts.size() == 3) && CLI::detail::lexical_cast(parts[0], low) &&
                       CLI::detail::lexical_cast(parts[1], high) &&
                       (parts.size() == 2 || CLI::detail::lexical_cast(parts[2], steps));
  if (!is_read || !(0 < low && low < high && std::isfinite(high)) || steps < 2 || steps > kMostSteps) {
    throw UsageError("--sweep: '" + text.substr(0, 40) +
                     "' is no range of capacity ratios such as 0.1:2.0, or 0.1:2.0:12 for 12 of them");
  }
  for (int i = 0; i < steps; ++i) {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.3g", low * std::pow(high / low, static_cast<double>(i) / (steps - 1)));
    ratios.push_back(std::strtod(digits, nullptr));
  }
}

// The name of a bundle's folder, as far as it fits into an address.
std::string folder_name(const std::string& bundle) {
  const std::filesystem::path folder = std::filesystem::weakly_canonical(bundle);
  std::string name = (folder.extension() == ".vmoe" ? folder.stem() : folder.filename()).string().substr(0, 100);
  for (size_t i = 0; (i = name.find_first_not_of(kNameCharacters, i)) != std::string::npos;) name[i] = '-';
  return name.empty() ? "model" : name;
}

void check(const Options& options) {
  if (options.slo_ms == 0 && (!options.capacity.empty() || options.profiles.size() > 1)) {
    throw UsageError("several settings are what --slo-ms chooses from, which is missing; --profile takes one of them");
  }
  if (!options.capacity.empty() && options.profiles.size() > 1) {
    throw UsageError("--sweep and --capacity change the capacity of one profile; --profile names several");
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
      "Serves a bundle over HTTP. POST /v1/classify (or features) takes a picture or JSON, POST /v2/models/NAME/infer "
      "the Open Inference Protocol; GET /healthz and /metrics. SIGTERM and Ctrl-C answer what has arrived, and end it.",
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
  add("--slo-ms", options.slo_ms, "Milliseconds to the answer, which elastic capacity keeps")
      ->check(above_zero & CLI::Range(0.0, kMostMs));
  add("--sweep", sweeps, "LOW:HIGH[:N]: capacity ratios that --slo-ms chooses from, 8 or N of them; repeats");
  add("--capacity", options.capacity, "A capacity ratio that --slo-ms chooses from; repeats")->check(above_zero);
  add("--profile", options.profiles,
      "A profile that --slo-ms chooses from, the least accurate first; repeats. Without "
      "--slo-ms the profile of all requests");
  add("--name", options.name, "Name of the model in addresses; default: that of the folder")
      ->check([](const std::string& text) {
        const bool fits = !text.empty() && text.size() <= 100 && text.find_first_not_of(kNameCharacters) == text.npos;
        return fits ? std::string() : "takes 1 to 100 letters, digits, '.', '_' and '-'";
      });
  add("--host", options.host, "Address to serve at");
  add("--port", options.port, "Its port; 0 takes a free one");
  add("--batch-size", options.batch_size, "The most images of a call and of a request")->check(CLI::Range(1, 4096));
  add("--max-waiting", options.max_waiting, "Images that may wait; further requests get 503")
      ->check(CLI::Range(1, 1 << 20));
  add("--max-body", options.max_body, "Megabytes of a request's body; larger ones get 413")->check(CLI::Range(1, 1024));
  add("--connections", options.connections, "Clients at once; further ones get 503")->check(CLI::Range(1, 65536));
  add("--request-seconds", options.request_seconds, "For a request to arrive, and for its answer to be taken")
      ->check(CLI::Range(1, 3600));
  add("--threads", options.threads, "Threads per call; default: the runtime's choice")->check(CLI::Range(1, 1024));
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
