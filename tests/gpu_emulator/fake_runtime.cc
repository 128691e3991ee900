// A CUDA runtime whose only GPU is the emulator. It has the functions that nvcc's objects and their callers need. If it
// is linked instead of CUDA's, the launch code of the kernels runs unchanged, and each launch runs the PTX in the same
// object.
#include "fake_runtime.h"

#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

namespace gpu_emulator {

Device& device() {
  static auto* const one = new Device;  // never destroyed, because objects register kernels before main()
  return *one;
}

namespace {

struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  cudaStream_t stream;
};

Configuration g_next;  // of the next launch

// The names of the kernels, by the address of the host function that launches them.
std::map<const void*, std::string>& kernel_names() {
  static auto* const names = new std::map<const void*, std::string>;
  return *names;
}

template <class T>
T read_at(const unsigned char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// Adds the PTX in a fat binary. A fat binary has a header and then entries, each of which has its own header.
void add_fat_binary(const unsigned char* binary) {
  constexpr uint32_t kMagic = 0xba55ed50;
  constexpr uint16_t kPtx = 1;
  if (read_at<uint32_t>(binary) != kMagic) throw std::runtime_error("it is not a fat binary");
  const unsigned char* entry = binary + read_at<uint16_t>(binary + 6);
  const unsigned char* const end = entry + read_at<uint64_t>(binary + 8);
  while (entry < end) {
    const auto header_bytes = read_at<uint32_t>(entry + 4);
    const auto bytes = read_at<uint64_t>(entry + 8);
    if (read_at<uint16_t>(entry) == kPtx) {
      if (read_at<uint32_t>(entry + 16) != 0) throw std::runtime_error("its PTX is compressed");
      const auto* const text = reinterpret_cast<const char*>(entry + header_bytes);
      device().machine.add_module(std::string(text, strnlen(text, bytes)), read_at<int32_t>(entry + 28));
    }
    entry += header_bytes + bytes;
  }
}

cudaError_t launch(const std::string& name, const Configuration& how, void** arguments) {
  Device& gpu = device();
  const auto found = gpu.machine.kernels(gpu.dialect).find(name);
  if (found == gpu.machine.kernels(gpu.dialect).end()) return cudaErrorInvalidDeviceFunction;
  if (how.stream != gpu.stream) gpu.machine.report("wrong stream", "kernel " + name);
  if (gpu.is_capturing) {
    ++gpu.captured;
    return cudaSuccess;
  }
  const Launch launch{{how.grid.x, how.grid.y, how.grid.z}, {how.block.x, how.block.y, how.block.z}, how.shared_bytes};
  return gpu.machine.launch(found->second, launch, arguments) ? cudaSuccess : cudaErrorLaunchFailure;
}

// Reports a call that is an error while launches are captured.
bool refuse_in_capture(const char* function) {
  if (device().is_capturing) device().machine.report("call during capture", function);
  return device().is_capturing;
}

}  // namespace
}  // namespace gpu_emulator

using gpu_emulator::device;
using gpu_emulator::DeviceMemory;
using gpu_emulator::refuse_in_capture;

extern "C" {

// The functions that nvcc's code calls.

void** __cudaRegisterFatBinary(void* wrapper) {
  try {
    const auto* const bytes = static_cast<const unsigned char*>(wrapper);
    gpu_emulator::add_fat_binary(gpu_emulator::read_at<const unsigned char*>(bytes + 8));
  } catch (const std::exception& error) {
    device().machine.report("unreadable module", error.what());  // its kernels do not exist
  }
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  gpu_emulator::kernel_names()[function] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  gpu_emulator::g_next = {grid, block, shared_bytes, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  *grid = gpu_emulator::g_next.grid;
  *block = gpu_emulator::g_next.block;
  *shared_bytes = gpu_emulator::g_next.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = gpu_emulator::g_next.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                               cudaStream_t stream) {
  const std::string& name = gpu_emulator::kernel_names().at(kernel);
  device().last_error = gpu_emulator::launch(name, {grid, block, shared_bytes, stream}, arguments);
  return device().last_error;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t stream) {
  cudaKernel_t kernel = nullptr;
  __cudaGetKernel(&kernel, function);
  return __cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

// The runtime's public functions.

cudaError_t cudaGetLastError() {
  const cudaError_t error = device().last_error;
  device().last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaErrorEmulated"; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "emulated error"; }

cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) { return index == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMultiProcessorCount) return cudaErrorInvalidValue;
  *value = device().processors;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return refuse_in_capture("cudaDeviceSynchronize") ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (refuse_in_capture("cudaMalloc")) return cudaErrorStreamCaptureUnsupported;
  *memory = reinterpret_cast<void*>(device().machine.memory().allocate(bytes));
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  if (refuse_in_capture("cudaFree")) return cudaErrorStreamCaptureUnsupported;
  return device().machine.memory().release(reinterpret_cast<uint64_t>(memory)) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (refuse_in_capture("cudaMemcpy")) return cudaErrorStreamCaptureUnsupported;
  const auto to_address = reinterpret_cast<uint64_t>(to);
  const auto from_address = reinterpret_cast<uint64_t>(from);
  DeviceMemory& memory = device().machine.memory();
  bool is_done = false;  // no caller copies within the device
  if (DeviceMemory::is_device_address(to_address) && !DeviceMemory::is_device_address(from_address)) {
    is_done = memory.write(to_address, from, bytes);
  } else if (DeviceMemory::is_device_address(from_address) && !DeviceMemory::is_device_address(to_address)) {
    is_done = memory.read(from_address, to, bytes);
  }
  return is_done ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  device().is_capturing = true;
  device().captured = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) {
  device().is_capturing = false;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* count) {
  *count = device().captured;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }

}  // extern "C"
