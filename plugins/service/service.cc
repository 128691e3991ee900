#include "service.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/algorithm/string/replace.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <numeric>
#include <optional>
#include <regex>
#include <thread>

#include "content_encoding.h"
#include "pictures.h"

namespace {

constexpr int kLargeNice = 5;  // niceness of the thread for large pictures; other threads have priority over it

asio::awaitable<void> unpack(Request& request, std::string_view encoding, size_t most) {
  request.body() = unpacked(request.body(), encoding, most);
  co_return;
}

}  // namespace

Service::Service(const Options& options, const vmoe::Engine& engine, vmoe::Batcher& batcher, const Metrics& metrics)
    : options(options),
      engine(engine),
      batcher(batcher),
      metrics(metrics),
      tensors(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)),
      pictures(std::clamp(std::thread::hardware_concurrency(), 1U, 4U)) {
  // On Linux, setpriority changes the niceness of only the calling thread.
  asio::post(large_pictures.context(), [] { setpriority(PRIO_PROCESS, 0, kLargeNice); });
}

Routes Service::routes() {
  Routes routes;
  for (const Route& route : kRoutes) {
    const std::string path = boost::replace_all_copy(std::string(route.path), "{model}", options.name);
    routes.endpoints[path] = {route.is_post, route.label,
                              [this, &route](Exchange& exchange) { return serve(route, exchange); }};
  }
  routes.no_path = [this](const std::string& path) { return no_path(path); };
  return routes;
}

asio::awaitable<Response> Service::serve(const Route& route, Exchange& exchange) {
  const std::string_view encoding = exchange.request[http::field::content_encoding];
  if (!encoding.empty()) {
    co_await run_on(tensors, unpack(exchange.request, encoding, static_cast<size_t>(options.max_body) << 20));
  }
  co_return co_await route.answer(*this, exchange);
}

RequestError Service::no_path(const std::string& path) const {
  static const std::regex of_model(kModelPath);
  std::smatch found;
  const bool is_of_model = std::regex_match(path, found, of_model);
  if (is_of_model && found[1] != options.name) return RequestError(kNoModel, found[1], options.name);
  if (is_of_model && found[2].matched && found[2] != kVersion) return RequestError(kNoVersion, found[2], kVersion);
  return RequestError(kNoPath, path);
}

asio::awaitable<ImageBatch> Service::decode(const Input& files, const HasGone& has_gone) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options.request_seconds);
  const size_t size = engine.info().image_bytes();
  ImageBatch batch{engine.info().input_dtype, static_cast<int64_t>(files.size()), {}};
  batch.data.resize(files.size() * size);
  for (size_t i = 0; i < files.size(); ++i) {
    const auto& file = files[i].get_ref<const std::string&>();
    const size_t pixels = pixels_of(file);
    const auto decode_one = [&]() -> asio::awaitable<void> {
      if (std::chrono::steady_clock::now() > end || has_gone()) {
        throw RequestError(kDecoding, options.request_seconds);
      }
      const int orientation = decode_picture(engine, file, pixels, batch.data.data() + i * size);
      if (orientation > 1 && engine.info().preprocessing.rfind(kRotation, 0) != 0) ++unturned;
      co_return;
    };
    if (i > 0) co_await asio::post(asio::use_awaitable);  // lets pictures of other requests be decoded first
    if (pixels > kLargePicture) {
      co_await run_on(large_pictures, decode_one());
    } else {
      co_await decode_one();
    }
  }
  co_return batch;
}

asio::awaitable<vmoe::Answer> Service::run(ImageBatch images, const Input& setting, const HasGone& has_gone) {
  if (!setting.is_null() && engine.profiles().empty()) throw RequestError(kNoSettings);
  const auto batch = std::make_shared<const ImageBatch>(std::move(images));
  std::string profile = setting.is_null() ? "" : setting.get<std::string>();
  vmoe::Answer whole;
  for (int64_t first = 0; first < batch->count; first += options.batch_size) {
    const int64_t count = std::min<int64_t>(options.batch_size, batch->count - first);
    vmoe::Result<vmoe::Answer> answer = co_await call(batch, first, count, profile, has_gone);
    if (!answer) throw RequestError(answer.error());
    if (first == 0) {
      whole = std::move(*answer);
      profile = whole.setting;  // all further calls use the same profile as the first call
    } else {
      whole.output.insert(whole.output.end(), answer->output.begin(), answer->output.end());
      for (auto& [name, values] : whole.layers) {
        const auto& more = answer->layers.at(name);
        values.insert(values.end(), more.begin(), more.end());
      }
    }
  }
  co_return whole;
}

asio::awaitable<vmoe::Result<vmoe::Answer>> Service::call(std::shared_ptr<const ImageBatch> batch, int64_t first,
                                                          int64_t count, const std::string& profile,
                                                          const HasGone& has_gone) {
  const vmoe::Info& info = engine.info();
  const uint8_t* data = batch->data.data() + first * (static_cast<int64_t>(batch->data.size()) / batch->count);
  const vmoe::Images images{data, batch->dtype, count, info.height, info.width, info.channels};
  std::optional<ClientWatch::Guard> watched;
  const auto submit = [&](auto handler) {
    // The batcher's callback owns this coroutine and the images. The callback runs on another thread. It only posts the
    // answer, because the coroutine must not continue before `submit` has returned.
    const auto coroutine = std::make_shared<decltype(handler)>(std::move(handler));
    const auto done = [coroutine, batch](vmoe::Result<vmoe::Answer> answer) {
      const auto strand = asio::get_associated_executor(*coroutine);
      asio::post(strand, [handler = std::move(*coroutine), answer = std::move(answer)]() mutable {
        std::move(handler)(std::move(answer));
      });
    };
    auto ticket = batcher.submit(images, profile, done);
    if (ticket) {
      watched.emplace(clients, has_gone, *ticket);
    } else {
      done(ticket.error());
    }
  };
  using Signature = void(vmoe::Result<vmoe::Answer>);
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, Signature>(submit, asio::use_awaitable);
}

std::vector<size_t> Service::most_probable(const float* logits) const {
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
