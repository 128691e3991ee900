#include "service.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/algorithm/string/replace.hpp>
#include <chrono>
#include <numeric>
#include <regex>
#include <thread>
#include <utility>

#include "pictures.h"

namespace {

constexpr auto kLook = std::chrono::milliseconds(50);  // between two looks at whether a client has gone
constexpr int kLargeNice = 5;                          // leaves the processors to everything else

}  // namespace

Service::Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics)
    : options(options),
      engine(engine),
      batcher(batcher),
      metrics(metrics),
      tensors(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)),
      pictures(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)) {
  asio::post(large_pictures, [] { setpriority(PRIO_PROCESS, 0, kLargeNice); });  // of this thread
  for (const Route& route : kRoutes) {
    routes[boost::replace_all_copy(std::string(route.path), "{model}", options.name)] = &route;
  }
}

RequestError Service::no_path(const std::string& path) const {
  static const std::regex of_model(kModelPath);
  std::smatch found;
  const bool is_of_model = std::regex_match(path, found, of_model);
  if (is_of_model && found[1] != options.name) return RequestError(kNoModel, found[1], options.name);
  if (is_of_model && found[2].matched && found[2] != kVersion) return RequestError(kNoVersion, found[2], kVersion);
  return RequestError(kNoPath, path);
}

ImageBatch Service::decode(const Input& files, const HasGone& has_gone) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options.request_seconds);
  const size_t size = engine.info().image_bytes();
  ImageBatch batch{engine.info().input_dtype, static_cast<int64_t>(files.size()), {}};
  batch.data.resize(files.size() * size);
  for (size_t i = 0; i < files.size(); ++i) {
    const auto& file = files[i].get_ref<const std::string&>();
    const auto decode_one = [&] {
      if (std::chrono::steady_clock::now() > end || has_gone()) {
        throw RequestError(kDecoding, options.request_seconds);
      }
      const int orientation = decode_picture(engine, file, batch.data.data() + i * size);
      if (orientation > 1 && engine.info().preprocessing.rfind(kRotation, 0) != 0) ++unturned;
    };
    run_on(pixels_of(file) > kLargePicture ? large_pictures : pictures, decode_one);
  }
  return batch;
}

vmoe::Answer Service::answer(const ImageBatch& batch, const Input& setting, const HasGone& has_gone) {
  if (!setting.is_null() && engine.profiles().empty()) throw RequestError(kNoSettings);
  const vmoe::Info& info = engine.info();
  std::string profile = setting.is_null() ? "" : setting.get<std::string>();
  vmoe::Answer whole;
  for (int64_t first = 0; first < batch.count; first += options.batch_size) {
    const uint8_t* data = batch.data.data() + first * (static_cast<int64_t>(batch.data.size()) / batch.count);
    const int64_t count = std::min<int64_t>(options.batch_size, batch.count - first);
    auto pending = batcher.submit({data, batch.dtype, count, info.height, info.width, info.channels}, profile);
    if (!pending) throw RequestError(pending.error());
    while (!pending->wait_for(kLook)) {
      if (has_gone() && pending->cancel()) break;
    }
    auto answer = pending->wait();
    if (!answer) throw RequestError(answer.error());
    if (first == 0) {
      whole = std::move(*answer);
      profile = whole.setting;  // all images have the setting that was chosen for the first ones
    } else {
      whole.output.insert(whole.output.end(), answer->output.begin(), answer->output.end());
      for (auto& [name, values] : whole.layers) {
        const auto& more = answer->layers.at(name);
        values.insert(values.end(), more.begin(), more.end());
      }
    }
  }
  return whole;
}

std::vector<size_t> Service::likeliest(const float* logits) const {
  std::vector<size_t> order(static_cast<size_t>(engine.info().output_size));
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  return order;
}

Json Service::level() const {
  const std::string level = batcher.load().level;
  return level.empty() ? Json() : Json(level);
}

Response json_response(const Json& json) { return text_response(to_text(json), kJson); }

Json output_tensor(const vmoe::OutputShape& output, int64_t count) {
  Json shape = {count, output.columns};
  if (output.rows > 0) shape = {count, output.rows, output.columns};
  return {{"name", output.name}, {"datatype", "FP32"}, {"shape", shape}};
}
