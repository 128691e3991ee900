// Random calls of one-node models: shapes, settings and values, valid or not.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/float16.h"

inline constexpr int64_t kInt32Max = 0x7fffffff;

using Random = std::mt19937_64;
using Shape = std::vector<int64_t>;

inline int64_t between(Random& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}
inline bool chance(Random& random, int percent) { return between(random, 1, 100) <= percent; }
inline int64_t one_of(Random& random, const std::vector<int64_t>& values) { return values[random() % values.size()]; }

struct Value {
  std::string name, type, dims;
};

struct Model {
  std::string file, op, expected;
  std::vector<Value> inputs, outputs;
  std::map<char, int64_t> fixed;
  std::map<std::string, int64_t> attributes;
  Ort::Session session{nullptr};

  bool routes() const {
    return op == "VmoeRoute" || op == "VmoeRouteDispatch" || op == "VmoeRouterBlock" || experts_choose();
  }
  bool experts_choose() const { return op == "VmoeChooseTokens"; }
  bool is_soft() const { return op == "VmoeSoftRouter" || op == "VmoeSoftDispatch" || op == "VmoeSoftCombine"; }
  int64_t attribute(const std::string& name, int64_t otherwise) const {
    const auto found = attributes.find(name);
    return found == attributes.end() ? otherwise : found->second;
  }
};

inline std::vector<Model> read_plan(const std::string& folder) {
  std::ifstream plan(folder + "/plan.txt");
  std::vector<Model> models;
  for (std::string word; plan >> word;) {
    if (word == "end") continue;
    if (word == "model") models.emplace_back();
    Model& model = models.back();
    if (word == "model") {
      plan >> model.file >> model.op >> model.expected;
      model.file = folder + "/" + model.file;
    } else if (word == "input" || word == "output") {
      Value value;
      plan >> value.name >> value.type >> value.dims;
      if (value.dims == "-") value.dims.clear();  // one number
      (word == "input" ? model.inputs : model.outputs).push_back(value);
    } else if (word == "size") {
      char letter;
      plan >> letter >> model.fixed[letter];
    } else if (word == "attribute") {
      plan >> word >> model.attributes[word];
    } else {
      throw std::runtime_error("the plan has the word " + word);
    }
  }
  return models;
}

inline bool is_half(const std::string& type) { return type == "fp16" || type == "bf16"; }
inline size_t element_bytes(const std::string& type) {
  return type == "i64" ? 8 : is_half(type) ? 2 : type == "i8" ? 1 : 4;
}

// What no op gives: a signalling NaN, or an index beyond everything.
inline constexpr uint32_t kUnwritten = 0x7fa5a5a5;
inline constexpr uint16_t kUnwrittenHalf = 0x7fa5;

// A tensor in a buffer of exactly its size.
struct Tensor {
  Shape shape;
  std::unique_ptr<char[]> data;
  size_t elements = 1;
  std::string type;

  Tensor(std::string of_type, Shape with_shape) : shape(std::move(with_shape)), type(std::move(of_type)) {
    for (int64_t size : shape) elements *= static_cast<size_t>(size);
    data.reset(new char[bytes()]);
  }
  size_t bytes() const { return elements * element_bytes(type); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data.get());
  }
  void mark_unwritten() const {
    if (is_half(type)) {
      std::fill_n(as<uint16_t>(), elements, kUnwrittenHalf);
    } else {
      std::fill_n(as<uint32_t>(), elements, kUnwritten);
    }
  }
  bool is_unwritten(size_t i) const {
    return is_half(type) ? as<uint16_t>()[i] == kUnwrittenHalf : as<uint32_t>()[i] == kUnwritten;
  }
  // An element of a tensor that isn't of integers.
  float number_at(size_t i) const {
    if (type == "fp16") return vmoe::from_fp16(as<uint16_t>()[i]);
    return type == "bf16" ? vmoe::from_bf16(as<uint16_t>()[i]) : as<float>()[i];
  }
  Ort::Value value(const Ort::MemoryInfo& memory) const {
    const auto element = type == "i64"    ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                         : type == "i32"  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                         : type == "i8"   ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
                         : type == "bf16" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16
                         : type == "fp16" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return Ort::Value::CreateTensor(memory, data.get(), bytes(), shape.data(), shape.size(), element);
  }
};

// One call: what is fed, and what must come of it.
struct Call {
  std::map<char, int64_t> sizes;
  int64_t capacity = 1, k = 1, bpr = 1, pool = 0, max_experts = INT64_MAX, merge = 0;
  bool valid = true;
  bool finite = true;
  std::string fault = "settings";  // what makes it invalid
  std::vector<Tensor> inputs;

  Shape shape(const std::string& dims) const {
    Shape shape;
    for (char letter : dims) shape.push_back(letter == '1' ? 1 : sizes.at(letter));
    return shape;
  }
};

inline int64_t random_size(char letter, Random& random) {
  if (chance(random, 2)) return 0;
  if (letter == 'G' || letter == 'N') return between(random, 1, 3);
  if (letter == 'E') return between(random, 1, 7);
  if (letter == 'K') return between(random, chance(random, 5) ? 0 : 1, 4);
  if (letter == 'M') return between(random, 1, 12);
  // Around whole vectors and tiles.
  if (chance(random, 10)) return one_of(random, {15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97});
  return between(random, 1, chance(random, 3) ? 100 : 12);
}

inline void choose_settings(const Model& model, Random& random, Call& call) {
  const int64_t experts = call.sizes['E'], tokens = call.sizes['S'];
  call.k = chance(random, 20) ? experts : between(random, 1, std::max<int64_t>(experts, 1));
  call.k = std::max<int64_t>(call.k, 1);
  call.bpr = between(random, 0, 1);
  call.capacity = one_of(random, {1, 1, 2, 3, 5, std::max<int64_t>(tokens, 1), tokens + 1, 500});
  const auto given = [&](const char* name) {
    return std::any_of(model.inputs.begin(), model.inputs.end(), [&](const Value& v) { return v.name == name; });
  };
  if (given("pool")) call.pool = between(random, 0, 1);
  if (given("max_experts") && chance(random, 80)) {
    call.max_experts = between(random, 1, std::max<int64_t>(experts, 1) + 1);
  }
  if (!given("capacity")) call.capacity = model.attribute("capacity", 0);
  if (model.experts_choose()) {
    call.k = 1;
    return;
  }
  if (!given("k")) call.k = model.attribute("k", 0);
  if (!given("bpr")) call.bpr = model.attribute("bpr", -1);
}

inline bool settings_are_valid(const Call& call) {
  const int64_t groups = call.sizes.at('G'), experts = call.sizes.at('E');
  if (experts < 1 || call.k < 1 || call.k > experts || call.capacity < 1) return false;
  if (call.bpr != 0 && call.bpr != 1) return false;
  return groups == 0 || call.capacity <= kInt32Max / experts / groups;
}

// An attribute that divides a size, where it isn't 0.
struct Divisor {
  const char* attribute;
  char letter;
};
inline constexpr Divisor kDivisors[] = {{"num_heads", 'D'}, {"hidden_chunk", 'F'}};

inline void follow_divisors(const Model& model, Random& random, Call& call) {
  for (const auto& [attribute, letter] : kDivisors) {
    const int64_t divisor = model.attribute(attribute, 0);
    if (divisor == 0) continue;
    int64_t& size = call.sizes[letter];
    if (model.fixed.count(letter) == 0 && chance(random, 90)) {
      // What is too large for a tensor divides an empty one.
      size = divisor > 128 ? 0 : (size + divisor - 1) / divisor * divisor;
    }
    call.valid = call.valid && size % divisor == 0;
  }
}

// Of rotated tokens: a frequency for each pair of a head's columns, and coordinates for all of them.
inline void choose_pairs(const Model& model, Call& call) {
  if (call.sizes.count('A') == 0 || !call.valid) return;
  const int64_t columns = 2 * std::min<int64_t>(model.attribute("num_heads", 1), 1 << 20);
  int64_t &pairs = call.sizes['A'], &hidden = call.sizes['D'];
  if (columns > 256 || model.fixed.count('D') != 0) {
    pairs = hidden / columns;
  } else {
    hidden = columns * pairs;
  }
  call.valid = call.valid && pairs * columns == hidden;
}

// How many tokens are merged: of those behind the prefix every second one may join another.
inline int64_t merged_tokens(int64_t tokens, int64_t merge, int64_t prefix) {
  const int64_t joining = prefix == 1 ? (tokens - 1) / 2 : (tokens - prefix + 1) / 2;
  const bool any_other = tokens > (prefix == 1 ? 1 : prefix + 1);
  return any_other ? std::max<int64_t>(0, std::min({merge, tokens / 2, joining})) : 0;
}

inline void choose_sizes(const Model& model, Random& random, Call& call) {
  for (const Value& value : model.inputs) {
    for (char letter : value.dims) {
      if (letter != '1' && call.sizes.count(letter) == 0) call.sizes[letter] = random_size(letter, random);
    }
  }
  for (const auto& [letter, size] : model.fixed) call.sizes[letter] = size;
  if (model.routes()) {
    choose_settings(model, random, call);
    call.valid = settings_are_valid(call);
  }
  const bool merges =
      std::any_of(model.inputs.begin(), model.inputs.end(), [](const Value& value) { return value.name == "merge"; });
  if (merges) call.merge = between(random, 0, 9);
  call.sizes['U'] = call.sizes['T'] - merged_tokens(call.sizes['T'], call.merge, model.attribute("prefix", 0));
  if (model.is_soft()) call.sizes['M'] = call.sizes['G'] * call.sizes['P'];
  follow_divisors(model, random, call);
  choose_pairs(model, call);
  const bool needs_tokens = model.op == "VmoeAttention" || model.op == "VmoeClassAttentionBlock";
  if (needs_tokens && call.sizes['T'] == 0) call.valid = false;
  if (model.expected == "never-runs") call.valid = false;
}

// Changes one shape so that it contradicts the others, or one setting or index so that it is out of range. False if
// this model has no input that the chosen fault fits.
inline bool plan_shape_fault(const Model& model, Random& random, std::vector<Shape>& shapes) {
  std::map<char, int> uses;
  for (const auto& entry : model.fixed) ++uses[entry.first];
  for (const Value& value : model.inputs) {
    for (char letter : value.dims) ++uses[letter];
  }
  const size_t input = random() % shapes.size();
  Shape& shape = shapes[input];
  if (chance(random, 30)) {
    if (shape.empty() || chance(random, 50)) {
      shape.insert(shape.begin() + between(random, 0, static_cast<int64_t>(shape.size())), 1);
    } else {
      shape.erase(shape.begin() + between(random, 0, static_cast<int64_t>(shape.size()) - 1));
    }
    return true;
  }
  if (shape.empty()) return false;
  const size_t dim = random() % shape.size();
  const char letter = model.inputs[input].dims[dim];
  if (letter != '1' && uses[letter] < 2 && !(letter == 'M' && model.is_soft())) return false;
  shape[dim] += shape[dim] > 0 && chance(random, 50) ? -1 : between(random, 1, 3);
  return true;
}

inline bool make_setting_invalid(const Call& call, const std::string& name, Random& random, const Tensor& tensor) {
  int64_t bad = 0;
  if (name == "k") {
    bad = one_of(random, {0, -1, call.sizes.at('E') + 1, INT64_MAX, INT64_MIN, int64_t{1} << 32 | 1});
  } else if (name == "bpr") {
    bad = one_of(random, {2, -1, INT64_MAX, INT64_MIN, int64_t{1} << 32});
  } else if (name == "pool") {
    bad = one_of(random, {2, -1, INT64_MAX, INT64_MIN, int64_t{1} << 32 | 1});
  } else if (name == "max_experts") {
    bad = one_of(random, {0, -1, INT64_MIN});
  } else if (name == "merge") {
    bad = one_of(random, {-1, INT64_MIN});
  } else {
    const int64_t cells = call.sizes.at('G') * call.sizes.at('E');
    bad = one_of(random, {0, -1, INT64_MIN});
    if (cells > 0 && chance(random, 60)) bad = one_of(random, {INT64_MAX, kInt32Max / cells + 1, int64_t{1} << 33});
  }
  *tensor.as<int64_t>() = bad;
  return true;
}

// Below which the numbers of an index input are.
inline int64_t index_limit(const Call& call, const std::string& name) {
  if (name == "token") return call.sizes.at('T');
  return name == "src" ? call.sizes.at('G') * call.sizes.at('S') : call.sizes.at('E') * call.sizes.at('M');
}

inline bool make_index_invalid(const Call& call, const std::string& name, Random& random, const Tensor& tensor) {
  if (tensor.elements == 0) return false;
  const int64_t limit = index_limit(call, name);
  tensor.as<int32_t>()[random() % tensor.elements] =
      static_cast<int32_t>(one_of(random, {limit, limit + 1, kInt32Max, -2, -kInt32Max - 1}));
  return true;
}

inline float random_float(Random& random) {
  return static_cast<float>(static_cast<int32_t>(random())) * (1.0f / 2147483648.0f);
}

inline float special_float(Random& random) {
  constexpr float kSpecial[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e-42f, 3e38f, -3e38f, 1e-38f};
  return kSpecial[random() % (sizeof(kSpecial) / sizeof(kSpecial[0]))];
}

inline void fill_bytes(const Tensor& tensor, Random& random) {
  const bool extremes = chance(random, 20);  // the largest sums that there are
  for (size_t i = 0; i < tensor.elements; ++i) {
    tensor.as<int8_t>()[i] = static_cast<int8_t>(extremes ? one_of(random, {-128, -127, 127}) : random());
  }
}

inline void fill_floats(const Tensor& tensor, const Call& call, Random& random) {
  const bool ties = chance(random, 20);
  for (size_t i = 0; i < tensor.elements; ++i) {
    float number = random_float(random);
    if (ties) number = std::round(number * 4) / 4;
    if (tensor.type == "scale") number /= 64;
    if (!call.finite && chance(random, 10)) number = special_float(random);
    if (is_half(tensor.type)) {
      tensor.as<uint16_t>()[i] = tensor.type == "fp16" ? vmoe::to_fp16(number) : vmoe::to_bf16(number);
    } else {
      tensor.as<float>()[i] = number;
    }
  }
}

inline void fill_tensor(const Value& value, const Tensor& tensor, const Call& call, Random& random) {
  if (value.type == "i64") {
    const std::map<std::string, int64_t> settings = {
        {"capacity", call.capacity},       {"k", call.k},        {"bpr", call.bpr}, {"pool", call.pool},
        {"max_experts", call.max_experts}, {"merge", call.merge}};
    std::fill_n(tensor.as<int64_t>(), tensor.elements, settings.at(value.name));
  } else if (value.type == "i32") {
    const int64_t limit = index_limit(call, value.name);
    for (size_t i = 0; i < tensor.elements; ++i)
      tensor.as<int32_t>()[i] = static_cast<int32_t>(between(random, -1, limit - 1));
  } else if (value.type == "i8") {
    fill_bytes(tensor, random);
  } else {
    fill_floats(tensor, call, random);
    // Tokens are one or more.
    for (size_t i = 0; value.name == "sizes" && i < tensor.elements; ++i) {
      float& size = tensor.as<float>()[i];
      size = 1 + std::floor(4 * std::fabs(size));
    }
  }
}

// VmoeExpertBlock takes slots that have a token alone: others become pairs that are dropped, or make the call invalid.
inline void match_slots(const Model& model, Random& random, Call& call) {
  const auto input = [&](const char* name) -> const Tensor& {
    const auto found =
        std::find_if(model.inputs.begin(), model.inputs.end(), [&](const Value& v) { return v.name == name; });
    return call.inputs[static_cast<size_t>(found - model.inputs.begin())];
  };
  const Tensor& slot = input("slot");
  const Tensor& src = input("src");
  const bool faulty = chance(random, 5);
  for (size_t pair = 0; pair < slot.elements; ++pair) {
    int32_t& place = slot.as<int32_t>()[pair];
    if (place < 0 || src.as<int32_t>()[place] >= 0) continue;
    if (faulty) {
      call.valid = false;
      call.fault = "a slot without a token";
    } else {
      place = -1;
    }
  }
}

inline Call make_call(const Model& model, Random& random) {
  Call call;
  call.finite = chance(random, 85);
  choose_sizes(model, random, call);
  std::vector<Shape> shapes;
  shapes.reserve(model.inputs.size());
  for (const Value& value : model.inputs) shapes.push_back(call.shape(value.dims));
  const bool faulty = chance(random, 25);
  if (faulty && chance(random, 60) && plan_shape_fault(model, random, shapes)) {
    call.valid = false;
    call.fault = "shapes";
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    call.inputs.emplace_back(model.inputs[i].type, shapes[i]);
    fill_tensor(model.inputs[i], call.inputs[i], call, random);
  }
  if (model.op == "VmoeExpertBlock" && call.valid) match_slots(model, random, call);
  if (!faulty || !call.valid) return call;
  const size_t input = random() % call.inputs.size();
  const Value& value = model.inputs[input];
  // What becomes of merged tokens is not asked for the class token alone.
  if (model.op == "VmoeClassAttentionBlock" && (value.name == "merge" || value.name == "token")) return call;
  if (value.type == "i64" && make_setting_invalid(call, value.name, random, call.inputs[input])) {
    call.valid = false;
    call.fault = value.name;
  }
  if (value.type == "i32" && make_index_invalid(call, value.name, random, call.inputs[input])) {
    call.valid = false;
    call.fault = value.name;
  }
  return call;
}
