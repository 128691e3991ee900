# CMake toolchain file: libraries for x86-64 or 64-bit ARM that run where glibc 2.28 or newer is, compiled by zig on any Linux.
#   -DVMOE_ARCH=x86_64 or aarch64
#   -DVMOE_ZIG=PATH of the zig program; without it the one on the path, or that of Python's package ziglang
# libc++ is linked in, so a library needs nothing but the C library. Standard library and exceptions stay inside each.
set(VMOE_GLIBC 2.28)
if(NOT VMOE_ARCH MATCHES "^(x86_64|aarch64)$")
  message(FATAL_ERROR "manylinux.cmake needs -DVMOE_ARCH=x86_64 or aarch64, not '${VMOE_ARCH}'")
endif()
if(NOT VMOE_ZIG)
  find_program(VMOE_ZIG zig)
endif()
if(NOT VMOE_ZIG)
  execute_process(COMMAND python3 -c "import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).with_name('zig'))"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(VMOE_ZIG "${found}" CACHE FILEPATH "The zig program" FORCE)
endif()
if(NOT EXISTS "${VMOE_ZIG}")
  message(FATAL_ERROR "manylinux.cmake needs zig: pip install ziglang, or -DVMOE_ZIG=PATH")
endif()

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${VMOE_ARCH})
set(CMAKE_CXX_COMPILER ${VMOE_ZIG} c++ -target ${VMOE_ARCH}-linux-gnu.${VMOE_GLIBC})
set(CMAKE_USER_MAKE_RULES_OVERRIDE_CXX ${CMAKE_CURRENT_LIST_DIR}/zig_rules.cmake)
set(CMAKE_CXX_ARCHIVE_CREATE "\"${VMOE_ZIG}\" ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_APPEND "\"${VMOE_ZIG}\" ar q <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "\"${VMOE_ZIG}\" ranlib <TARGET>")
# Unlike other compilers, zig would write what debuggers read, which the linker strips. No folder's name is part of a library.
set(CMAKE_CXX_FLAGS_INIT "-g0 -ffile-prefix-map=${CMAKE_BINARY_DIR}=. -ffile-prefix-map=${CMAKE_SOURCE_DIR}=.")
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s) # strip(1) of this machine may not know the other architecture
# A compiler that is tried must know what it compiles for.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES VMOE_ARCH VMOE_ZIG)
