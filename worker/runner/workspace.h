#pragma once

// Scratch memory of the forward pass: named buffers that grow to the largest step seen and stay.

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "worker/device/arena.h"

namespace octavo {

// One growing buffer. Its content is lost when it grows.
class GrowingBuffer {
 public:
  absl::Status Reserve(Arena* arena, uint64_t bytes, std::string_view what) {
    if (bytes <= buffer_.size() && buffer_.data() != nullptr) return absl::OkStatus();
    buffer_ = Buffer();
    OCTAVO_ASSIGN_OR_RETURN(buffer_, arena->Allocate(bytes + bytes / 4 + 4096, what));
    return absl::OkStatus();
  }
  template <typename T>
  T* as() const {
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

// Per-thread scratch of the products: one tile of sums for every level of Tree.
struct Workspace {
  static constexpr int64_t kTileRows = 64;
  static constexpr int64_t kTileGroups = 4;     // of 16 channels
  static constexpr int64_t kOneRowGroups = 16;  // where a step has one row: longer streams
  static constexpr int64_t kTileSums = kTileRows * kTileGroups * 16;
  static constexpr int64_t kLevels = 10;  // Tree over up to 512 units
  static constexpr int64_t kThreadBytes = kLevels * kTileSums * 4;

  absl::Status Init(Arena* arena, int threads) {
    return sums_.Reserve(arena, static_cast<uint64_t>(threads) * kThreadBytes, "product scratch");
  }
  float* ThreadSums(int thread) const { return sums_.as<float>() + thread * (kThreadBytes / 4); }

 private:
  GrowingBuffer sums_;
};

}  // namespace octavo
