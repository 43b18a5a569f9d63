#pragma once

// Memory that several processes of one host map. It has no name that could outlive them: the
// maker's processes open it through the maker's entry in /proc, and it is gone with the last of
// them.

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace octavo {

class SharedRegion {
 public:
  // `bytes` zeros. Errors: kIo, where the system has no such memory.
  static absl::StatusOr<std::unique_ptr<SharedRegion>> Create(size_t bytes);
  // The region that another process (or this one) tells the address() of. Errors: kIo, where there
  // is no such region of `bytes` in reach.
  static absl::StatusOr<std::unique_ptr<SharedRegion>> Open(const std::string& address,
                                                            size_t bytes);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  // For Open, as long as this object lives.
  std::string address() const;
  // On a cache line's boundary.
  std::byte* data() const;

  // Takes chair `number` until this object or its process ends, however it ends. Errors: kIo, where
  // it is taken or the system cannot do that.
  absl::Status Hold(int number);
  // Whether another SharedRegion holds it.
  bool IsHeld(int number) const;

 private:
  struct Header;

  SharedRegion(int fd, size_t bytes) : fd_(fd), bytes_(bytes) {}
  absl::Status Map();
  Header* header() const { return static_cast<Header*>(memory_); }

  const int fd_;
  const size_t bytes_;  // without the header
  void* memory_ = nullptr;
};

}  // namespace octavo
