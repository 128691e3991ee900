# What the toolchain files of zig share. VMOE_ZIG_TARGET says what it compiles for.
#   -DVMOE_ZIG=PATH of the zig program; without it the one on the path, or that of Python's package ziglang
# libc++ is linked in, so a library needs nothing but the system's C library. Standard library and exceptions stay inside each.
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
# Unlike other compilers, zig would write what debuggers read, which the linker strips. No folder's name is part of a library.
set(CMAKE_CXX_FLAGS_INIT "-g0 -ffile-prefix-map=${CMAKE_BINARY_DIR}=. -ffile-prefix-map=${CMAKE_SOURCE_DIR}=.")
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s) # strip(1) of this machine may not know the other architecture
# A compiler that is tried must know what it compiles for.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES VMOE_ARCH VMOE_ZIG)
