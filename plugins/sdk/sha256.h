// SHA-256 of data that arrives in pieces.
#ifndef VMOE_SDK_SHA256_H_
#define VMOE_SDK_SHA256_H_

#include <cstddef>
#include <memory>
#include <string>

struct evp_md_ctx_st;

namespace vmoe::sdk {

class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t size);

  // 64 lower-case hex digits; call once.
  std::string hex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_SHA256_H_
