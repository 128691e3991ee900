"""Runs ONNX Runtime's own CUDA provider, from its wheel, on fakes of NVIDIA's libraries and without a GPU.

Most fake functions only return "success". Only the few functions that are needed to load a model do something: they allocate
memory on the host, make copies, and report one GPU. ONNX Runtime therefore loads models in the same way as with a GPU: it
assigns nodes to providers, and inserts copies between providers. Kernels don't run, so outputs are meaningless.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import fake_gpu
import pytest

CUDA_INCLUDE = Path("/usr/local/cuda/include")
DRIVER = "long cuTensorMapEncodeTiled() { return 0; }"  # the only driver function that the provider needs
_OF_NVIDIA = re.compile(r"lib(cuda|cudart|cublas|cublasLt|curand|cudnn|cufft)\.so\.\d+")

# The runtime functions that are needed to load a model.
_RUNTIME = r"""
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>
static cudaError_t give(void** p, size_t n) { *p = aligned_alloc(256, n / 256 * 256 + 256); return *p ? cudaSuccess : 2; }
static char some_handle[64];
"""
_BODIES = r"""
cudaError_t cudaMalloc(void** p, size_t n) { return give(p, n); }
cudaError_t cudaMallocHost(void** p, size_t n) { return give(p, n); }
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned f) { return give(p, n); }
cudaError_t cudaMallocFromPoolAsync(void** p, size_t n, cudaMemPool_t m, cudaStream_t s) { return give(p, n); }
cudaError_t cudaFree(void* p) { free(p); return cudaSuccess; }
cudaError_t cudaFreeHost(void* p) { free(p); return cudaSuccess; }
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) { free(p); return cudaSuccess; }
cudaError_t cudaMemcpy(void* a, const void* b, size_t n, enum cudaMemcpyKind k) { memmove(a, b, n); return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* a, const void* b, size_t n, enum cudaMemcpyKind k, cudaStream_t s) {
  memmove(a, b, n);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* a, int v, size_t n) { memset(a, v, n); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void* a, int v, size_t n, cudaStream_t s) { memset(a, v, n); return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* a, size_t* b) { *a = *b = (size_t)64 << 30; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int* d) { *d = 0; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* p, int d) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "emulator");
  p->major = 9;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->totalGlobalMem = (size_t)80 << 30;
  p->maxGridSize[0] = p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, enum cudaDeviceAttr a, int d) { *v = 1024; return cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t* s) { *s = (cudaStream_t)some_handle; return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) { *s = (cudaStream_t)some_handle; return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus* c) {
  *c = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = (cudaEvent_t)some_handle; return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned f) { *e = (cudaEvent_t)some_handle; return cudaSuccess; }
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* d) { f(d); return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t e) { return "emulator"; }
const char* cudaGetErrorName(cudaError_t e) { return "emulator"; }
void** __cudaRegisterFatBinary(void* p) { static void* handle; return &handle; }
"""
_DEFINED = re.compile(r"^[a-z].*?\*?(\w+)\(", re.MULTILINE)


def libraries(folder: Path, provider: Path) -> Path:
    """Make a folder for LD_LIBRARY_PATH with fakes of all of NVIDIA's libraries that the provider needs.

    If CUDA's headers are missing, skip the test.

    Args:
        folder: the folder to write to.
        provider: the path of libonnxruntime_providers_cuda.so.
    """
    if not (CUDA_INCLUDE / "cuda_runtime_api.h").is_file():
        pytest.skip(f"the fake of CUDA's runtime needs {CUDA_INCLUDE}/cuda_runtime_api.h")
    wanted = defaultdict(set)
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, _, version = line.split()[-1].partition("@")
        wanted[version.lstrip("@")].add(name)
    headers = subprocess.run(["readelf", "-d", provider], capture_output=True, text=True, check=True).stdout
    for library in filter(_OF_NVIDIA.fullmatch, re.findall(r"\(NEEDED\).*\[(.*)\]", headers)):
        has_bodies = library.startswith("libcudart.")
        source = _RUNTIME + _BODIES if has_bodies else ""
        ours = set(_DEFINED.findall(_BODIES)) if has_bodies else set()
        others = "".join(f"long {name}() {{ return 0; }}\n" for name in sorted(wanted[library] - ours))
        (folder / "bodies.c").write_text(source)
        (folder / "others.c").write_text(others)
        (folder / "map").write_text(f"{library} {{ global: *; }};\n")
        options = [f"-Wl,--version-script={folder / 'map'}", f"-Wl,-soname,{library}", f"-I{CUDA_INCLUDE}", "-w"]
        command = ["cc", "-shared", "-fPIC", *options, folder / "bodies.c", folder / "others.c", "-o", folder / library]
        subprocess.run(command, check=True)
    fake_gpu.driver(folder, "9.0", (13, 0), DRIVER).replace(folder / "libcuda.so.1")
    return folder
