// Encoded picture files to an engine's input.
#ifndef VMOE_HTTP_PICTURES_H_
#define VMOE_HTTP_PICTURES_H_

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <vector>
#include <vmoe/engine.hpp>

#include "requests.h"

// Decodes few pictures at once, however many clients there are: a small file can be a picture of 200 MB.
class PictureReader {
 public:
  PictureReader(const vmoe::Engine& engine, size_t at_once) : engine_(engine), free_(at_once) {}

  // Throws RequestError.
  ImageBatch read(const std::vector<std::string>& files);

 private:
  void read_one(const std::string& file, void* image) const;

  const vmoe::Engine& engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t free_;
};

#endif  // VMOE_HTTP_PICTURES_H_
