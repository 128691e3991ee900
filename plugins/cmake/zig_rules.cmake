# zig caches compilations, even across build folders, unless it must write dependency files.
set(CMAKE_DEPFILE_FLAGS_CXX "")
