# CMake toolchain file: libraries for macOS 13 or newer on Apple silicon, compiled by zig on any Linux.
#   -DVMOE_ZIG: see zig.cmake
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(VMOE_ZIG_TARGET aarch64-macos.13.0)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
# Also hides the declarations of libc++. Otherwise the system's libc++ could replace parts of the one that is linked in.
string(APPEND CMAKE_CXX_FLAGS_INIT " -Xclang -fapply-global-visibility-to-externs")
# CMake requires this tool but never needs to run it: the libraries name themselves and each other only by @rpath.
set(CMAKE_INSTALL_NAME_TOOL ${CMAKE_COMMAND})
