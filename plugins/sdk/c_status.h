// Code that all C functions share: checks for mistakes that a C caller can make, and the conversion of exceptions to a
// status.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>

#include "sdk/error.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// Returns a status for VMOE_MEMORY_ERROR. This status is static and never freed, because there may be no memory for a
// new status.
vmoe_status* out_of_memory();

vmoe_status* make_status(vmoe_code code, const char* message) noexcept;

// Runs `call`. Returns null on success. If `call` throws an exception, returns a status that describes the exception.
template <typename Call>
vmoe_status* guarded(const Call& call) noexcept {
  try {
    call();
    return nullptr;
  } catch (const Error& error) {
    return make_status(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::exception& error) {
    return make_status(VMOE_RUNTIME_ERROR, error.what());
  } catch (...) {
    return make_status(VMOE_RUNTIME_ERROR, "something unknown went wrong");
  }
}

template <typename T>
void check_pointer(const T* pointer, const char* name) {
  if (pointer == nullptr) fail(VMOE_ARGUMENT_ERROR, name, " is a null pointer");
}

template <typename Struct>
void check_size(const Struct* given, const char* name) {
  if (given->struct_size >= sizeof(Struct)) return;
  fail(VMOE_ARGUMENT_ERROR, name, " has struct_size ", given->struct_size, ", and ", sizeof(Struct),
       " or more is needed");
}

// Returns the value of the struct's field `reserved`, which later versions may use. Returns 0 if the struct has no such
// field.
template <typename Struct>
auto reserved_of(const Struct& given, int /*preferred*/) -> decltype(given.reserved) {
  return given.reserved;
}
template <typename Struct>
int32_t reserved_of(const Struct& /*given*/, int64_t /*otherwise*/) {
  return 0;
}

// Returns a copy of a caller's struct, which may come from a later version of the header. Throws VMOE_ARGUMENT_ERROR if
// the struct is too small, or sets fields that do not exist in this version.
template <typename Struct>
Struct read_struct(const Struct* given, const char* name) {
  check_size(given, name);
  const size_t size = given->struct_size;
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > sizeof(Struct) + 4096 || reserved_of(*given, 0) != 0 ||
      (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size, [](auto b) { return b != 0; }))) {
    fail(VMOE_ARGUMENT_ERROR, name, " uses fields that this version of the library doesn't know");
  }
  return *given;
}

// Copies `source` to a caller's struct, which may come from a later version of the header. Throws VMOE_ARGUMENT_ERROR
// if the caller's struct is too small.
template <typename Struct>
void write_struct(Struct* target, Struct source, const char* name) {
  check_size(target, name);
  source.struct_size = target->struct_size;
  *target = source;
}

inline size_t check_index(int64_t index, size_t size, const char* what) {
  if (index < 0 || static_cast<size_t>(index) >= size) {
    fail(VMOE_ARGUMENT_ERROR, "there is no ", what, " ", index, "; there are ", size);
  }
  return static_cast<size_t>(index);
}

}  // namespace vmoe::sdk
