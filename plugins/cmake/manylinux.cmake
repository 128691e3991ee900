# CMake toolchain file: libraries for x86-64 or 64-bit ARM with glibc 2.28 or newer, compiled by zig on any Linux.
#   -DVMOE_ARCH=x86_64 or aarch64
#   -DVMOE_ZIG: see zig.cmake
set(VMOE_GLIBC 2.28)
if(NOT VMOE_ARCH MATCHES "^(x86_64|aarch64)$")
  message(FATAL_ERROR "manylinux.cmake needs -DVMOE_ARCH=x86_64 or aarch64, not '${VMOE_ARCH}'")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${VMOE_ARCH})
set(VMOE_ZIG_TARGET ${VMOE_ARCH}-linux-gnu.${VMOE_GLIBC})
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
