// Runs ops from the op library. Each input and output is in a heap buffer of exactly its size, so that the address
// sanitizer detects accesses outside the buffer.
//
//   op_calls ONNXRUNTIME OP_LIBRARY
//
// tests/support/random_calls.py writes commands to stdin, and reads a reply to each command from stdout. Numbers are
// int64. Strings and data begin with their size in bytes, and lists begin with their length.
//
//   l MODEL FILE THREADS      loads the file as model number MODEL
//   f MODEL                   frees the model
//   r MODEL INPUTS OUTPUTS    runs the model
//
// Each reply begins with the error, which is an empty string if the command succeeds. After a successful run, the shape
// and data of each output follow.
//
// An input is its name, ONNX type, shape and data. An output is its name, ONNX type, shape and size. A size of -1 means
// an int32 output that the op allocates itself. Output elements that the op has not written contain 0x7fa5.
#define ORT_API_MANUAL_INIT
#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using Shape = std::vector<int64_t>;

int64_t read_number() {
  int64_t number = 0;
  std::cin.read(reinterpret_cast<char*>(&number), sizeof(number));
  return number;
}

std::string read_text() {
  std::string text(static_cast<size_t>(read_number()), '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
  return text;
}

Shape read_shape() {
  Shape shape(static_cast<size_t>(read_number()));
  for (int64_t& size : shape) size = read_number();
  return shape;
}

void write_number(int64_t number) { std::cout.write(reinterpret_cast<const char*>(&number), sizeof(number)); }

void write_data(const char* data, int64_t bytes) {
  write_number(bytes);
  std::cout.write(data, bytes);
}

void write_shape(const Shape& shape) {
  write_number(static_cast<int64_t>(shape.size()));
  for (const int64_t size : shape) write_number(size);
}

// An input or output in its own buffer. An output that the op itself allocates has no buffer.
struct Tensor {
  std::string name = read_text();
  ONNXTensorElementDataType type = static_cast<ONNXTensorElementDataType>(read_number());
  Shape shape = read_shape();
  int64_t bytes = read_number();
  std::unique_ptr<char[]> data{bytes < 0 ? nullptr : new char[static_cast<size_t>(bytes)]};

  Ort::Value value(const Ort::MemoryInfo& memory) const {
    if (data == nullptr) return Ort::Value{nullptr};
    return Ort::Value::CreateTensor(memory, data.get(), static_cast<size_t>(bytes), shape.data(), shape.size(), type);
  }
};

class Runner {
 public:
  explicit Runner(const char* library) {
    options_.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    options_.AddConfigEntry("session.intra_op.allow_spinning", "0");
    options_.RegisterCustomOpsLibrary(library);
  }

  void load() {
    const int64_t model = read_number();
    const std::string file = read_text();
    options_.SetIntraOpNumThreads(static_cast<int>(read_number()));
    answer([&] { sessions_.insert_or_assign(model, Ort::Session(env_, file.c_str(), options_)); });
  }

  void free() {
    answer([&] { sessions_.erase(read_number()); });
  }

  void run() {
    Ort::Session& session = sessions_.at(read_number());
    std::vector<Tensor> tensors;
    std::vector<Ort::Value> values;
    std::vector<const char*> names;
    const auto inputs = static_cast<size_t>(read_number());
    for (size_t i = 0; i < inputs; ++i) {
      const Tensor& tensor = tensors.emplace_back();
      std::cin.read(tensor.data.get(), tensor.bytes);
      values.push_back(tensor.value(memory_));
    }
    const auto outputs = static_cast<size_t>(read_number());
    for (size_t i = 0; i < outputs; ++i) {
      const Tensor& tensor = tensors.emplace_back();
      if (tensor.data != nullptr) std::fill_n(reinterpret_cast<uint16_t*>(tensor.data.get()), tensor.bytes / 2, 0x7fa5);
      values.push_back(tensor.value(memory_));
    }
    for (const Tensor& tensor : tensors) names.push_back(tensor.name.c_str());
    const bool ran = answer([&] {
      session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), inputs, names.data() + inputs,
                  values.data() + inputs, outputs);
    });
    for (size_t i = inputs; ran && i < values.size(); ++i) {
      const auto made = values[i].GetTensorTypeAndShapeInfo();
      write_shape(made.GetShape());
      const auto made_bytes = static_cast<int64_t>(made.GetElementCount() * sizeof(int32_t));
      write_data(values[i].GetTensorData<char>(), tensors[i].data == nullptr ? made_bytes : tensors[i].bytes);
    }
  }

 private:
  Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "op_calls"};
  Ort::SessionOptions options_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::map<int64_t, Ort::Session> sessions_;

  // Runs a function. Writes its error, or an empty string if it succeeds. Returns whether it succeeded.
  template <class Function>
  bool answer(const Function& function) {
    std::string error;
    try {
      function();
    } catch (const Ort::Exception& refused) {
      error = refused.what();
    }
    write_data(error.data(), static_cast<int64_t>(error.size()));
    return error.empty();
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  void* runtime = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (runtime == nullptr) return std::printf("%s\n", dlerror()), 2;
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))();
  Ort::InitApi(base->GetApi(VMOE_OLDEST_ONNXRUNTIME));
  Runner runner(argv[2]);
  for (char command; std::cin.get(command);) {
    command == 'l' ? runner.load() : command == 'f' ? runner.free() : runner.run();
    std::cout.flush();
  }
  return 0;
}
