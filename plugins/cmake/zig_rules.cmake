# zig compiles again only what changed, in a new build folder as well, unless it is to write a list of headers.
set(CMAKE_DEPFILE_FLAGS_CXX "")
