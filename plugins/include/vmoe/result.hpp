// The result of a call that can fail: a value or an error.
#ifndef VMOE_RESULT_HPP_
#define VMOE_RESULT_HPP_

#include <cassert>
#include <string>
#include <utility>
#include <variant>

#include "vmoe/engine.h"

namespace vmoe {

// The reason why a call failed.
struct Error {
  vmoe_code code = VMOE_OK;
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return content_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // The value. Requires ok().
  T& value() & { return *checked(std::get_if<0>(&content_)); }
  const T& value() const& { return *checked(std::get_if<0>(&content_)); }
  T&& value() && { return std::move(*checked(std::get_if<0>(&content_))); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // The error. Requires !ok().
  const Error& error() const { return *checked(std::get_if<1>(&content_)); }

 private:
  template <typename P>
  static P* checked(P* pointer) {
    assert(pointer != nullptr);
    return pointer;
  }

  std::variant<T, Error> content_;
};

}  // namespace vmoe

#endif  // VMOE_RESULT_HPP_
