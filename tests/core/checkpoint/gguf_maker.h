#pragma once

// Makes GGUF files in memory for tests: metadata and tensors as told, right or wrong.

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace octavo {

class GgufMaker {
 public:
  template <typename T>
  static std::string Raw(T value) {
    std::string out(sizeof value, '\0');
    std::memcpy(out.data(), &value, sizeof value);
    return out;
  }
  static std::string Text(std::string_view text) {
    return Raw<uint64_t>(text.size()) + std::string(text);
  }

  void U32(std::string_view key, uint32_t value) { Key(key, 4, Raw(value)); }
  void F32(std::string_view key, float value) { Key(key, 6, Raw(value)); }
  void Bool(std::string_view key, uint8_t value) { Key(key, 7, Raw(value)); }
  void String(std::string_view key, std::string_view value) { Key(key, 8, Text(value)); }
  void Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string raw = Raw<uint32_t>(8) + Raw<uint64_t>(values.size());
    for (const std::string& value : values) raw += Text(value);
    Key(key, 9, raw);
  }
  void I32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string raw = Raw<uint32_t>(5) + Raw<uint64_t>(values.size());
    for (int32_t value : values) raw += Raw(value);
    Key(key, 9, raw);
  }
  void Key(std::string_view key, uint32_t type, const std::string& raw) {
    metadata_ += Text(key) + Raw(type) + raw;
    ++keys_;
  }

  // dims: fastest first, as in the file.
  void Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
              const std::string& data) {
    data_.resize((data_.size() + 31) / 32 * 32, '\0');
    TensorRow(name, dims, type, data_.size());
    data_ += data;
  }
  void TensorRow(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                 uint64_t offset) {
    table_ += Text(name) + Raw<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims) table_ += Raw(dim);
    table_ += Raw(type) + Raw(offset);
    ++tensors_;
  }
  void Data(const std::string& bytes) { data_ += bytes; }

  std::string Head(uint32_t version = 3) const {
    return "GGUF" + Raw(version) + Raw<uint64_t>(tensors_) + Raw<uint64_t>(keys_) + metadata_ +
           table_;
  }
  std::string File(uint32_t version = 3) const {
    std::string out = Head(version);
    out.resize((out.size() + 31) / 32 * 32, '\0');
    return out + data_;
  }

 private:
  std::string metadata_, table_, data_;
  uint64_t keys_ = 0, tensors_ = 0;
};

}  // namespace octavo
