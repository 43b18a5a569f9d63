#pragma once

// An owned array in the GPU's memory.

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/error.h"
#include "fmt/format.h"
#include "kernels/cuda/simt/memory.h"

namespace octavo {

template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() { simt::FreeDevice(data_); }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(room_, other.room_);
    return *this;
  }

  // Not cleared. kOutOfMemory names `what`.
  static absl::StatusOr<DeviceArray> Create(size_t size, std::string_view what) {
    DeviceArray array;
    array.data_ = static_cast<T*>(simt::AllocateDevice((size == 0 ? 1 : size) * sizeof(T)));
    if (array.data_ == nullptr) {
      return MakeError(Reason::kOutOfMemory,
                       fmt::format("the GPU has no {} bytes for {}", size * sizeof(T), what));
    }
    array.size_ = array.room_ = size;
    return array;
  }
  // The same, filled with `values`.
  static absl::StatusOr<DeviceArray> Of(std::span<const T> values, std::string_view what) {
    auto array = Create(values.size(), what);
    if (!array.ok()) return array;
    const absl::Status status = array->Fill(values, nullptr);
    if (!status.ok()) return status;
    return array;
  }

  // Makes room for `size` elements, whose values are lost; keeps the memory where it is enough, and
  // takes a quarter more than asked for where it is not. What was launched on it must be done.
  absl::Status Resize(size_t size, std::string_view what) {
    if (size > room_) {
      auto array = Create(size + size / 4, what);
      if (!array.ok()) return array.status();
      *this = *std::move(array);
    }
    size_ = size;
    return absl::OkStatus();
  }
  // The same, filled with `values`.
  absl::Status Assign(std::span<const T> values, std::string_view what, simt::Stream stream) {
    const absl::Status status = Resize(values.size(), what);
    return status.ok() ? Fill(values, stream) : status;
  }

  // Copies to element `at` and on. REQUIRES at + values.size() <= size().
  absl::Status Fill(std::span<const T> values, simt::Stream stream, size_t at = 0) {
    if (!simt::CopyToDevice(data_ + at, values.data(), values.size_bytes(), stream)) {
      return MakeError(Reason::kHardware, "a copy to the GPU failed");
    }
    return absl::OkStatus();
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
  size_t room_ = 0;  // elements allocated
};

}  // namespace octavo
