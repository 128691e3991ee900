# Shared part of the zig toolchain files. VMOE_ZIG_TARGET is the target to compile for.
#   -DVMOE_ZIG=PATH   the zig program; by default the one on the path, or else in Python's package ziglang
# libc++ is linked in, so each library depends only on the system's C library, and has its own standard library and
# exceptions.
if(NOT VMOE_ZIG)
  find_program(VMOE_ZIG zig)
endif()
if(NOT VMOE_ZIG)
  execute_process(COMMAND python3 -c "import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).with_name('zig'))"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(VMOE_ZIG "${found}" CACHE FILEPATH "The zig program" FORCE)
endif()
if(NOT EXISTS "${VMOE_ZIG}")
  message(FATAL_ERROR "the compiler zig is needed: pip install ziglang, or -DVMOE_ZIG=PATH")
endif()

set(CMAKE_CXX_COMPILER ${VMOE_ZIG} c++ -target ${VMOE_ZIG_TARGET})
set(CMAKE_USER_MAKE_RULES_OVERRIDE_CXX ${CMAKE_CURRENT_LIST_DIR}/zig_rules.cmake)
set(CMAKE_CXX_ARCHIVE_CREATE "\"${VMOE_ZIG}\" ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_APPEND "\"${VMOE_ZIG}\" ar q <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "\"${VMOE_ZIG}\" ranlib <TARGET>")
# Unlike other compilers, zig writes debug information by default, which the linker would strip again. The prefix maps
# keep folder names out of the libraries.
set(CMAKE_CXX_FLAGS_INIT "-g0 -ffile-prefix-map=${CMAKE_BINARY_DIR}=. -ffile-prefix-map=${CMAKE_SOURCE_DIR}=.")
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s) # strip(1) of this machine may not know the other architecture
# CMake's compiler checks need these variables to know their target.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES VMOE_ARCH VMOE_ZIG)
