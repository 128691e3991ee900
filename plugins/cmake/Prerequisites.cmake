# Finds the prerequisites of the libraries on this machine. Sets
#   VMOE_OP_LIBRARY_LACKS, VMOE_SDK_LACKS, VMOE_CUDA_LACKS, VMOE_TENSORRT_LACKS
#                     what this machine lacks for each library; empty if it can be built
#   VMOE_CAN_BUILD    whether any of them can be built
#   ONNXRUNTIME_INCLUDE_DIR, HIGHWAY_INCLUDE_DIR
# and enables C++ and CUDA if there are compilers.
include(CheckLanguage)

# The oldest supported runtimes: ONNX Runtime 1.N, whose API newer versions also provide, and TensorRT N.M.
file(READ "${PROJECT_SOURCE_DIR}/../pyproject.toml" project)
string(REGEX MATCH "onnxruntime>=1\\.([0-9]+)" found "${project}")
set(VMOE_OLDEST_ONNXRUNTIME ${CMAKE_MATCH_1})
string(REGEX MATCH "tensorrt>=([0-9]+)\\.([0-9]+)" found "${project}")
set(VMOE_OLDEST_TENSORRT ${CMAKE_MATCH_1}.${CMAKE_MATCH_2})
add_compile_definitions(VMOE_OLDEST_ONNXRUNTIME=${VMOE_OLDEST_ONNXRUNTIME})
# Every GPU since the A100. GPUs without machine code here compile the oldest PTX at load: later GPUs, and Jetsons (8.7,
# 11.0), which can't run the machine code of discrete GPUs.
set(VMOE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120-real 80-virtual
    CACHE STRING "CUDA architectures to compile for, in CMake's form")

macro(lacks what)
  foreach(library ${ARGN})
    list(APPEND VMOE_${library}_LACKS "${what}")
  endforeach()
endmacro()

if(CMAKE_SYSTEM_NAME MATCHES "^(Linux|Darwin)$")
  if(NOT CMAKE_CXX_COMPILER)
    unset(CMAKE_CXX_COMPILER CACHE) # it may have been installed since the last time
  endif()
  check_language(CXX)
  # If there is a compiler that can't compile, or CXX names one that doesn't exist, this stops with CMake's reason: the
  # flags or the launcher in the environment may be at fault. macOS is excluded, because its c++ exists even if the rest
  # of the compiler is missing.
  find_program(VMOE_ANY_CXX NAMES c++ g++ clang++ NO_CMAKE_SYSTEM_PATH)
  if(CMAKE_CXX_COMPILER OR (CMAKE_SYSTEM_NAME STREQUAL "Linux" AND (VMOE_ANY_CXX OR NOT "$ENV{CXX}" STREQUAL "")))
    enable_language(CXX)
  endif()
  if(NOT "cxx_std_17" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
    lacks("a C++17 compiler (Debian package g++)" OP_LIBRARY SDK CUDA TENSORRT)
  endif()

  find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h PATH_SUFFIXES onnxruntime onnxruntime/core/session)
  set(ort_api 0)
  if(ONNXRUNTIME_INCLUDE_DIR)
    file(STRINGS ${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h line REGEX "^#define ORT_API_VERSION +[0-9]+")
    string(REGEX MATCH "[0-9]+$" ort_api "${line}")
  endif()
  if(NOT ort_api OR ort_api LESS VMOE_OLDEST_ONNXRUNTIME)
    lacks("the headers of ONNX Runtime 1.${VMOE_OLDEST_ONNXRUNTIME} or newer (libonnxruntime-dev)" OP_LIBRARY SDK CUDA)
  endif()

  find_path(HIGHWAY_INCLUDE_DIR hwy/highway.h)
  if(NOT HIGHWAY_INCLUDE_DIR)
    lacks("the headers of Highway (libhwy-dev)" OP_LIBRARY CUDA)
  endif()

  find_path(NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp)
  if(NOT NLOHMANN_JSON_INCLUDE_DIR)
    lacks("the header nlohmann/json.hpp (nlohmann-json3-dev)" SDK)
  endif()
  if(VMOE_GPU STREQUAL "OFF")
    lacks("-DVMOE_GPU=AUTO or ON (it was OFF)" CUDA TENSORRT)
  elseif(NOT VMOE_CUDA_LACKS OR NOT VMOE_TENSORRT_LACKS)
    if(NOT CMAKE_CUDA_COMPILER)
      unset(CMAKE_CUDA_COMPILER CACHE)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES ${VMOE_CUDA_ARCHITECTURES})
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      find_package(CUDAToolkit)
    endif()
    if(NOT CUDAToolkit_FOUND)
      lacks("the CUDA toolkit (nvcc 12.8 or newer)" CUDA TENSORRT)
    elseif(CUDAToolkit_VERSION VERSION_LESS 12.8)
      lacks("nvcc 12.8 or newer (it has ${CUDAToolkit_VERSION})" CUDA TENSORRT)
    endif()
  endif()
  if(NOT EXISTS "${TENSORRT_INCLUDE_DIR}/NvInferRuntime.h")
    lacks("TensorRT's headers (-DTENSORRT_INCLUDE_DIR=FOLDER with NvInferRuntime.h)" TENSORRT)
  else()
    file(STRINGS ${TENSORRT_INCLUDE_DIR}/NvInferVersion.h lines
      REGEX "^#define (TRT|NV_TENSORRT)_(MAJOR|MINOR)(_ENTERPRISE)? +[0-9]+")
    string(REGEX MATCHALL "[0-9]+" tensorrt "${lines}")
    list(JOIN tensorrt "." tensorrt)
    if(tensorrt VERSION_LESS VMOE_OLDEST_TENSORRT)
      lacks("the headers of TensorRT ${VMOE_OLDEST_TENSORRT} or newer (it has ${tensorrt})" TENSORRT)
    endif()
  endif()
else()
  lacks("Linux or macOS (what the libraries are written for)" OP_LIBRARY SDK CUDA TENSORRT)
endif()

# A cross compiler with /usr/include on its path would use this machine's C library headers. Links provide only the
# headers that are needed.
set(libraries HIGHWAY NLOHMANN_JSON)
set(folders hwy nlohmann)
foreach(library folder IN ZIP_LISTS libraries folders)
  if(CMAKE_CROSSCOMPILING AND ${library}_INCLUDE_DIR)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/headers)
    file(CREATE_LINK ${${library}_INCLUDE_DIR}/${folder} ${CMAKE_BINARY_DIR}/headers/${folder} SYMBOLIC)
    set(${library}_INCLUDE_DIR ${CMAKE_BINARY_DIR}/headers)
  endif()
endforeach()

# One line for each library that is not built: its name and what it lacks. VMOE_GPU=ON requires the libraries for a GPU
# (the plugin only if TENSORRT_INCLUDE_DIR is set); VMOE_REQUIRE_ALL requires the others.
set(VMOE_CAN_BUILD OFF)
set(missing "")
set(missing_required "")
set(libraries OP_LIBRARY SDK CUDA TENSORRT)
set(files libvmoe_onnxruntime libvmoe_engine libvmoe_onnxruntime_cuda libvmoe_tensorrt)
list(TRANSFORM files APPEND ${CMAKE_SHARED_LIBRARY_SUFFIX})
foreach(library file IN ZIP_LISTS libraries files)
  if(NOT VMOE_${library}_LACKS)
    set(VMOE_CAN_BUILD ON)
    continue()
  endif()
  list(JOIN VMOE_${library}_LACKS ", " lacking)
  string(APPEND missing "${file}: ${lacking}\n")
  set(required ${VMOE_REQUIRE_ALL})
  if(library STREQUAL "CUDA" OR (library STREQUAL "TENSORRT" AND TENSORRT_INCLUDE_DIR))
    string(COMPARE EQUAL "${VMOE_GPU}" ON required)
  elseif(library STREQUAL "TENSORRT")
    set(required OFF)
  endif()
  if(required)
    string(APPEND missing_required "${file}: ${lacking}\n")
  endif()
endforeach()
if(missing_required)
  message(FATAL_ERROR "This machine lacks what these need:\n${missing_required}")
endif()
# A Python package is built with VMOE_WITHOUT_LIBRARIES=OFF first, and with ON if no library can be built: a package
# without libraries has a name that makes it installable on any machine.
if(VMOE_WITHOUT_LIBRARIES STREQUAL "OFF" AND NOT VMOE_CAN_BUILD)
  message(FATAL_ERROR "No native library can be built here:\n${missing}Trying again without any.")
elseif(VMOE_WITHOUT_LIBRARIES AND VMOE_CAN_BUILD)
  message(FATAL_ERROR "The native libraries failed to build; see the reason above.")
endif()
if(missing)
  message(STATUS "Not built, because this machine lacks:\n${missing}")
  file(WRITE ${CMAKE_BINARY_DIR}/missing.txt "${missing}")
  install(FILES ${CMAKE_BINARY_DIR}/missing.txt DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
