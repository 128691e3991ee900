// Every GPU kernel on random layers, against loops on the CPU: what compute-sanitizer watches. Needs nothing but a GPU.
//
//   kernel_check [LAYERS] [SEED] [fresh]   "fresh" leaves what kernels write as it was allocated, for initcheck
//   kernel_check plant TOOL                a fault that the tool of that name must report, and nothing else
//
// Exit code 0 when every bit is right, 1 when not, 3 when CUDA refuses.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/float_conversion.h"
#include "core/routing.h"
#include "cuda/ops.h"
#include "planted_faults.h"

namespace {

using vmoe::BytesOf;
using vmoe::ElementType;
using vmoe::RoutingShape;

constexpr int kFailed = 1;
constexpr int kRefused = 3;

using Random = std::mt19937_64;
using Bytes = std::vector<unsigned char>;

size_t Between(Random& random, size_t low, size_t high) { return low + random() % (high - low + 1); }

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernel_check: %s: CUDA says '%s'\n", what, cudaGetErrorString(error));
  std::exit(kRefused);
}

// Device memory of exactly so many bytes, so that the sanitizer sees every access behind them. `offset` bytes in front
// take its alignment away. What is spoilt holds what no kernel would write, but counts as written.
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes, size_t offset = 0, bool spoilt = false) : bytes_(bytes), offset_(offset) {
    const size_t whole = std::max<size_t>(1, bytes + offset);
    Require(cudaMalloc(&whole_, whole), "cudaMalloc");
    if (spoilt) Require(cudaMemset(whole_, 0xA5, whole), "cudaMemset");
  }
  ~DeviceBytes() { cudaFree(whole_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(whole_) + offset_);
  }
  void Set(const Bytes& values) {
    Require(cudaMemcpy(as<void>(), values.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Bytes Get() const {
    Bytes values(bytes_);
    Require(cudaMemcpy(values.data(), as<void>(), bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  void* whole_ = nullptr;
  size_t bytes_;
  size_t offset_;
};

struct Layer {
  RoutingShape shape;
  ElementType type;
  ElementType gate_type;
  size_t hidden;
  size_t offset;  // bytes that tokens are misaligned by

  size_t tokens() const { return shape.groups * shape.tokens; }
  size_t pairs() const { return tokens() * shape.choices; }
  size_t places() const { return shape.experts * shape.places(); }
  size_t row_bytes() const { return hidden * BytesOf(type); }

  std::string Name() const {
    char text[160];
    std::snprintf(text, sizeof(text), "G %zu, S %zu, E %zu, K %zu, c %zu, D %zu, type %d, gates %d, bpr %d, offset %zu",
                  shape.groups, shape.tokens, shape.experts, shape.choices, shape.capacity, hidden,
                  static_cast<int>(type), static_cast<int>(gate_type), shape.batch_priority ? 1 : 0, offset);
    return text;
  }
};

Layer RandomLayer(Random& random, size_t index) {
  constexpr size_t kExperts[] = {1, 2, 7, 8, 16, 32, 64, 256};
  constexpr size_t kHidden[] = {1, 3, 8, 24, 96};
  Layer layer{};
  RoutingShape& shape = layer.shape;
  shape.experts = kExperts[random() % 8];
  shape.choices = Between(random, 1, std::min<size_t>(8, shape.experts));
  // Every fourth layer has groups that several blocks sort.
  shape.tokens = index % 4 == 3 ? Between(random, 2048 / shape.choices + 1, 5000 / shape.choices)
                                : Between(random, 1, 2048 / shape.choices);
  shape.groups = Between(random, 1, 3);
  shape.capacity = std::max<size_t>(1, shape.tokens * shape.choices * Between(random, 5, 200) / 100 / shape.experts);
  shape.batch_priority = random() % 2 == 0;
  layer.type = static_cast<ElementType>(random() % 3);
  layer.gate_type = random() % 2 == 0 ? layer.type : ElementType::kFloat32;
  layer.hidden = kHidden[random() % 5];
  layer.offset = random() % 4 == 0 ? BytesOf(layer.type) : 0;
  return layer;
}

// Gates of few values, so that there are ties, and some NaN.
Bytes RandomGates(Random& random, ElementType type, size_t count) {
  std::vector<float> wide(count);
  const size_t levels = random() % 2 == 0 ? 4 : 1 << 20;
  for (float& value : wide) {
    value = random() % 50 == 0 ? NAN : static_cast<float>(random() % levels) / static_cast<float>(levels);
  }
  Bytes bits(count * BytesOf(type));
  vmoe::Narrow(type, wide.data(), count, bits.data());
  return bits;
}

Bytes RandomRows(Random& random, ElementType type, size_t count) {
  std::vector<float> wide(count);
  for (float& value : wide) value = static_cast<float>(static_cast<int64_t>(random() % 2001) - 1000) / 256.0f;
  Bytes bits(count * BytesOf(type));
  vmoe::Narrow(type, wide.data(), count, bits.data());
  return bits;
}

struct Results {
  Bytes slot, weight, src, buf, y;
};

template <class T>
T* As(Bytes& bytes) {
  return reinterpret_cast<T*>(bytes.data());
}

Results OnCpu(const Layer& layer, const Bytes& gates, const Bytes& x, const Bytes& out) {
  Results results;
  results.slot.resize(layer.pairs() * sizeof(int32_t));
  results.weight.resize(layer.pairs() * BytesOf(layer.gate_type));
  results.src.resize(layer.places() * sizeof(int32_t));
  results.buf.resize(layer.places() * layer.row_bytes());
  results.y.resize(layer.tokens() * layer.row_bytes());
  auto* slot = As<int32_t>(results.slot);
  auto* src = As<int32_t>(results.src);
  vmoe::Route(layer.shape, layer.gate_type, gates.data(), slot, results.weight.data(), src, vmoe::SerialRunner());
  for (size_t place = 0; place < layer.places(); ++place) {
    if (src[place] < 0) continue;
    std::memcpy(results.buf.data() + place * layer.row_bytes(),
                x.data() + static_cast<size_t>(src[place]) * layer.row_bytes(), layer.row_bytes());
  }
  std::vector<float> scale(layer.pairs());
  vmoe::Widen(layer.gate_type, results.weight.data(), scale.size(), scale.data());
  std::vector<float> row(layer.hidden);
  for (size_t token = 0; token < layer.tokens(); ++token) {
    std::vector<float> sum(layer.hidden, 0.0f);
    for (size_t k = 0; k < layer.shape.choices; ++k) {
      const size_t pair = token * layer.shape.choices + k;
      if (slot[pair] < 0) continue;
      vmoe::Widen(layer.type, out.data() + static_cast<size_t>(slot[pair]) * layer.row_bytes(), row.size(), row.data());
      for (size_t d = 0; d < layer.hidden; ++d) {
        // Volatile, so that no compiler makes one fused operation of the two.
        volatile float product = scale[pair] * row[d];
        sum[d] = k == 0 ? product : sum[d] + product;
      }
    }
    vmoe::Narrow(layer.type, sum.data(), sum.size(), results.y.data() + token * layer.row_bytes());
  }
  return results;
}

// Whether two tensors have the same bits; where a sum is NaN on both sides its bits may differ.
bool Same(const Bytes& got, const Bytes& wanted, const ElementType* sums) {
  if (got == wanted) return true;
  if (sums == nullptr || got.size() != wanted.size()) return false;
  const size_t count = got.size() / BytesOf(*sums);
  std::vector<float> first(count), second(count);
  vmoe::Widen(*sums, got.data(), count, first.data());
  vmoe::Widen(*sums, wanted.data(), count, second.data());
  for (size_t i = 0; i < count; ++i) {
    const bool both_nan = std::isnan(first[i]) && std::isnan(second[i]);
    if (!both_nan && std::memcmp(&first[i], &second[i], sizeof(float)) != 0) return false;
  }
  return true;
}

// Returns the number of tensors that are wrong.
int CheckLayer(const Layer& layer, Random& random, bool spoilt) {
  namespace cuda = vmoe::cuda;
  if (const char* refusal = cuda::RoutingRefusal(layer.shape)) {
    std::fprintf(stderr, "kernel_check: %s is refused: %s\n", layer.Name().c_str(), refusal);
    return 1;
  }
  const Bytes gates = RandomGates(random, layer.gate_type, layer.tokens() * layer.shape.experts);
  const Bytes x = RandomRows(random, layer.type, layer.tokens() * layer.hidden);
  const Bytes out = RandomRows(random, layer.type, layer.places() * layer.hidden);
  const Results wanted = OnCpu(layer, gates, x, out);

  DeviceBytes device_gates(gates.size());
  DeviceBytes device_x(x.size(), layer.offset);
  DeviceBytes device_out(out.size(), layer.offset);
  device_gates.Set(gates);
  device_x.Set(x);
  device_out.Set(out);
  int wrong = 0;
  for (const bool fused : {false, true}) {
    DeviceBytes slot(wanted.slot.size(), 0, spoilt);
    DeviceBytes weight(wanted.weight.size(), 0, spoilt);
    DeviceBytes src(wanted.src.size(), 0, spoilt);
    DeviceBytes buf(wanted.buf.size(), layer.offset, spoilt);
    DeviceBytes y(wanted.y.size(), layer.offset, spoilt);
    DeviceBytes workspace(
        fused ? cuda::RouteDispatchWorkspaceBytes(layer.shape) : cuda::RouteWorkspaceBytes(layer.shape), 0, spoilt);
    if (fused) {
      Require(cuda::RouteDispatch(layer.shape, layer.gate_type, device_gates.as<void>(), device_x.as<void>(),
                                  layer.row_bytes(), slot.as<int32_t>(), weight.as<void>(), buf.as<void>(),
                                  workspace.as<void>(), nullptr),
              "RouteDispatch");
    } else {
      Require(cuda::Route(layer.shape, layer.gate_type, device_gates.as<void>(), slot.as<int32_t>(), weight.as<void>(),
                          src.as<int32_t>(), nullptr, workspace.as<void>(), nullptr),
              "Route");
      Require(cuda::Dispatch(device_x.as<void>(), layer.tokens(), src.as<int32_t>(), layer.places(), layer.row_bytes(),
                             buf.as<void>(), nullptr),
              "Dispatch");
    }
    Require(cuda::Combine(layer.type, device_out.as<void>(), layer.places(), slot.as<int32_t>(), layer.gate_type,
                          weight.as<void>(), layer.tokens(), layer.shape.choices, layer.hidden, y.as<void>(), nullptr),
            "Combine");
    Require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const auto check = [&](const char* name, const DeviceBytes& got, const Bytes& expected, const ElementType* sums) {
      if (Same(got.Get(), expected, sums)) return;
      std::fprintf(stderr, "kernel_check: %s%s is wrong at %s\n", fused ? "RouteDispatch: " : "", name,
                   layer.Name().c_str());
      ++wrong;
    };
    check("slot", slot, wanted.slot, nullptr);
    check("weight", weight, wanted.weight, nullptr);
    if (!fused) check("src", src, wanted.src, nullptr);
    check("buf", buf, wanted.buf, nullptr);
    check("y", y, wanted.y, &layer.type);
  }
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  Require(cudaGetDeviceCount(&devices), "looking for a GPU");
  if (argc == 3 && std::strcmp(argv[1], "plant") == 0) return vmoe_gpu::PlantFault(argv[2]) ? 0 : kFailed;
  const size_t layers = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 100;
  const size_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const bool spoilt = argc < 4 || std::strcmp(argv[3], "fresh") != 0;
  int wrong = 0;
  for (size_t index = 0; index < layers; ++index) {
    Random random(seed * 1'000'003 + index);
    wrong += CheckLayer(RandomLayer(random, index), random, spoilt);
  }
  std::printf("%zu layers, seed %zu: %d tensors are wrong\n", layers, seed, wrong);
  return wrong == 0 ? 0 : kFailed;
}
