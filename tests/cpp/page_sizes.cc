// Tests the library's buffers with another page size than the system's. The argument is that page size. The program
// replaces sysconf, mmap and munmap by versions that behave as on a system with that page size. Prints the results.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "core/workspace.h"

namespace {

size_t page_bytes = 0;
std::set<uintptr_t> mapped_pages;
size_t failures = 0;

size_t round_up_to_pages(size_t bytes) { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }

}  // namespace

extern "C" {

long sysconf(int name) noexcept { return name == _SC_PAGESIZE ? static_cast<long>(page_bytes) : -1; }

void* mmap(void* wanted, size_t bytes, int access, int flags, int file, off_t offset) noexcept {
  const size_t whole = round_up_to_pages(bytes);
  const auto found = syscall(SYS_mmap, wanted, whole + page_bytes, access, flags, file, offset);
  const size_t start = round_up_to_pages(static_cast<uintptr_t>(found));
  for (size_t at = start; at < start + whole; at += page_bytes) mapped_pages.insert(at);
  return reinterpret_cast<void*>(start);
}

int munmap(void* data, size_t bytes) noexcept {
  const auto start = reinterpret_cast<uintptr_t>(data);
  if (start % page_bytes != 0) {
    ++failures;
    errno = EINVAL;
    return -1;
  }
  for (size_t at = start; at < start + bytes; at += page_bytes) mapped_pages.erase(at);
  return 0;
}

}  // extern "C"

int main(int, char** arguments) {
  page_bytes = std::strtoul(arguments[1], nullptr, 10);
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{61440}, size_t{65536}, (size_t{3} << 20) + 1}) {
    const vmoe::PageBuffer buffer(bytes);
    const auto start = reinterpret_cast<uintptr_t>(buffer.data());
    size_t held = 0;
    while (mapped_pages.count(start + held) != 0) held += page_bytes;
    const size_t all = mapped_pages.size() * page_bytes;
    if (held != round_up_to_pages(bytes) || all != held)
      std::printf("%zu of %zu bytes are kept for %zu\n", held, all, bytes);
  }
  std::printf("%zu calls failed, %zu pages stay\n", failures, mapped_pages.size());
}
