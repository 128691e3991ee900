#include "options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>

const char kHelp[] =
    "usage: vmoe-http BUNDLE [options]\n"
    "\n"
    "Serves a bundle over HTTP. POST /v1/classify takes a picture or JSON, POST /v2/models/NAME/infer the Open\n"
    "Inference Protocol; GET /healthz and /metrics. SIGTERM and Ctrl-C answer what is there, and end it.\n"
    "\n"
    "  --slo-ms MS            milliseconds to a request's answer, once it is read, that elastic capacity holds\n"
    "  --capacity C...        ratios that it chooses from: LOW:HIGH for 8 of them, LOW:HIGH:N, or single ones\n"
    "  --profile P...         settings that it chooses from, the least accurate first; without --slo-ms one for all\n"
    "  --name NAME            name of the model in addresses (default: that of the folder)\n"
    "  --host HOST            address to serve at (default: 127.0.0.1, this machine alone)\n"
    "  --port N               its port; 0 takes a free one (default: 8000)\n"
    "  --max-batch N          the most images of a call and of a request (default: 16)\n"
    "  --max-waiting N        images that may wait; further requests get 503 (default: 256)\n"
    "  --max-body MB          megabytes of a request's body; larger ones get 413 (default: 16)\n"
    "  --connections N        clients at once; further ones get 503 (default: 128)\n"
    "  --request-seconds S    for a request to arrive, and for its answer to be taken (default: 10)\n"
    "  --threads N            per call (default: the runtime's own choice)\n"
    "  -q, --quiet            print nothing but errors\n";

namespace {

constexpr double kLongestMs = 600'000;
constexpr int kSteps = 8, kMostSteps = 100;

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw UsageError((std::string() + ... + std::string(parts)));
}

std::optional<double> number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || rest != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

int64_t whole_number(const std::string& option, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || rest != end || value < least || value > most) {
    refuse(option, " must be a whole number from ", std::to_string(least), " to ", std::to_string(most), ", not '",
           text, "'");
  }
  return value;
}

double milliseconds(const std::string& text) {
  const auto value = number(text);
  if (!value || *value <= 0 || *value > kLongestMs) {
    refuse("--slo-ms must be more than 0 and at most 600000 milliseconds, not '", text, "'");
  }
  return *value;
}

std::string model_name(const std::string& text) {
  const auto known = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  if (text.empty() || text.size() > 100 || !std::all_of(text.begin(), text.end(), known)) {
    refuse("--name must be of letters, digits, '.', '_' and '-', at most 100, not '", text, "'");
  }
  return text;
}

// As --sweep of vmoe-bench reads them: those of ranges are spaced by equal factors and rounded to three digits.
void add_ratios(const std::string& word, std::set<double>& ratios) {
  const size_t colon = word.find(':');
  if (colon == std::string::npos) {
    const auto ratio = number(word);
    if (!ratio || *ratio <= 0) refuse("--capacity takes ratios above 0, such as 0.3, or 0.2:1.05, not '", word, "'");
    ratios.insert(*ratio);
    return;
  }
  const size_t second = word.find(':', colon + 1);
  const auto low = number(word.substr(0, colon)), high = number(word.substr(colon + 1, second - colon - 1));
  if (!low || !high || *low <= 0 || *low >= *high) {
    refuse("--capacity ", word, ": capacity ratios are above 0, and the first is the smaller one");
  }
  const auto steps = second == std::string::npos
                         ? kSteps
                         : static_cast<int>(whole_number("--capacity", word.substr(second + 1), 2, kMostSteps));
  for (int i = 0; i < steps; ++i) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3g", *low * std::pow(*high / *low, static_cast<double>(i) / (steps - 1)));
    const auto ratio = number(text);
    if (!ratio) refuse("--capacity ", word, ": the ratios of this range are no numbers");
    ratios.insert(*ratio);
  }
}

// The name of a bundle's folder, as far as it fits into an address.
std::string folder_name(const std::string& bundle) {
  std::string name = std::filesystem::weakly_canonical(bundle).filename().string();
  constexpr char kEnding[] = ".vmoe";
  if (name.size() > 5 && name.compare(name.size() - 5, 5, kEnding) == 0) name.resize(name.size() - 5);
  for (char& c : name) {
    if (static_cast<unsigned char>(c) >= 0x80 ||
        (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '_')) {
      c = '-';
    }
  }
  name = name.substr(0, 100);
  return name.empty() ? "model" : name;
}

}  // namespace

Options parse_options(const std::vector<std::string>& words) {
  Options options;
  std::set<double> ratios;
  // What each option does with a word behind it, and whether several may follow.
  struct Option {
    std::function<void(const std::string&)> take;
    bool several = false;
  };
  const std::map<std::string, Option> known = {
      {"--slo-ms", {[&](const std::string& word) { options.target = milliseconds(word) / 1e3; }}},
      {"--capacity", {[&](const std::string& word) { add_ratios(word, ratios); }, true}},
      {"--profile", {[&](const std::string& word) { options.profiles.push_back(word); }, true}},
      {"--name", {[&](const std::string& word) { options.name = model_name(word); }}},
      {"--host", {[&](const std::string& word) { options.host = word; }}},
      {"--port",
       {[&](const std::string& word) { options.port = static_cast<int>(whole_number("--port", word, 0, 65535)); }}},
      {"--max-batch",
       {[&](const std::string& word) { options.most_images = whole_number("--max-batch", word, 1, 4096); }}},
      {"--max-waiting",
       {[&](const std::string& word) { options.most_waiting = whole_number("--max-waiting", word, 1, 1 << 20); }}},
      {"--max-body", {[&](const std::string& word) {
         options.most_bytes = static_cast<size_t>(whole_number("--max-body", word, 1, 1024)) << 20;
       }}},
      {"--connections", {[&](const std::string& word) {
         options.connections = static_cast<size_t>(whole_number("--connections", word, 1, 4096));
       }}},
      {"--request-seconds", {[&](const std::string& word) {
         options.request_seconds = static_cast<int>(whole_number("--request-seconds", word, 1, 3600));
       }}},
      {"--threads", {[&](const std::string& word) {
         options.threads = static_cast<int>(whole_number("--threads", word, 1, 1024));
       }}},
  };
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "-h" || word == "--help") options.help = true;
    if (word == "-h" || word == "--help") continue;
    if (word == "-q" || word == "--quiet") {
      options.quiet = true;
      continue;
    }
    const auto option = known.find(word);
    if (option == known.end()) {
      if (word.substr(0, 1) == "-" || !options.bundle.empty()) refuse("'", word, "' is not known; see --help");
      options.bundle = word;
      continue;
    }
    // What begins with '-' is an option, unless it is a number.
    const auto is_value = [&](size_t at) {
      return at < words.size() && !words[at].empty() && (words[at][0] != '-' || number(words[at]));
    };
    if (!is_value(i + 1)) refuse(word, " needs a value");
    option->second.take(words[++i]);
    while (option->second.several && is_value(i + 1)) option->second.take(words[++i]);
  }
  if (options.help) return options;
  options.capacity.assign(ratios.begin(), ratios.end());
  if (options.bundle.empty()) refuse("which BUNDLE? see --help");
  if (options.target == 0 && !options.capacity.empty()) {
    refuse("--capacity is what --slo-ms chooses from, which is missing; --profile takes one setting");
  }
  if (!options.capacity.empty() && options.profiles.size() > 1) {
    refuse("--capacity starts from one profile, which says what k and order are; --profile names several");
  }
  if (options.target == 0 && options.profiles.size() > 1) {
    refuse("several settings are what --slo-ms chooses from, which is missing");
  }
  if (options.most_waiting < options.most_images) {
    refuse("--max-waiting ", std::to_string(options.most_waiting), " is less than --max-batch ",
           std::to_string(options.most_images), ", which a call takes");
  }
  if (options.name.empty()) options.name = folder_name(options.bundle);
  return options;
}
