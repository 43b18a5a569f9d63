#pragma once

// The GGUF container, versions 2 and 3, little-endian: metadata, tensor table, and dequantizing of
// F32, F16, BF16, Q8_0, Q4_0 and Q4_1. Source: ggml's docs/gguf.md and its block layouts. Every
// length is checked against the bytes that are left before anything is allocated, so that hostile
// files cost no more than their own size.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/store.h"

namespace octavo {

// A metadata value. Integers of all widths are int64 (u64 above its range is kBadCheckpoint),
// floats are double.
using GgufArray = std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string>,
                               std::vector<bool>>;
using GgufValue = std::variant<int64_t, double, bool, std::string, GgufArray>;

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // slowest axis first: the reverse of the file's dims
  uint32_t type = 0;           // ggml type id
  uint64_t begin = 0;          // absolute byte range; [0, 0) for a type we cannot size
  uint64_t end = 0;
};

struct GgufFile {
  uint32_t version = 0;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<GgufTensor> tensors;  // in file order
  uint64_t data_begin = 0;
  uint64_t size = 0;
};

// Metadata and tensor table of a file whose first bytes are `head`. When `head` is too short to
// hold them (and shorter than the file), nullopt: call again with more. Malformed: kBadCheckpoint
// with file, tensor, byte offset.
absl::StatusOr<std::optional<GgufFile>> ParseGguf(std::string_view head, uint64_t file_size,
                                                  std::string_view file_name);

// Reads as much of the file's beginning as it takes.
absl::StatusOr<GgufFile> ReadGguf(const Store& store, const std::string& path);

// "Q4_1"; "type 99" for an id without a name.
std::string GgmlTypeName(uint32_t type);
// True for the types DequantizeRows takes.
bool CanDequantize(uint32_t type);
// Bytes of `elements` values (a multiple of the type's block); nothing for unknown types, ragged
// counts and overflow.
std::optional<uint64_t> GgmlBytes(uint32_t type, uint64_t elements);

// F32 values of `elements` consecutive elements that begin on a block boundary. REQUIRES
// CanDequantize(type), blocks.size() == GgmlBytes(type, out.size()). Arithmetic: F32 per value, d *
// q (+ m), no fused multiply-add.
void DequantizeRows(uint32_t type, std::span<const std::byte> blocks, std::span<float> out);

// Metadata with a type: nothing when the key is absent, kBadCheckpoint when it holds another type.
absl::StatusOr<std::optional<int64_t>> GgufInt(const GgufFile& file, std::string_view key);
absl::StatusOr<std::optional<double>> GgufFloat(const GgufFile& file, std::string_view key);
absl::StatusOr<std::optional<bool>> GgufBool(const GgufFile& file, std::string_view key);
absl::StatusOr<std::optional<std::string>> GgufString(const GgufFile& file, std::string_view key);
// The array itself, not a copy; nullptr when absent.
absl::StatusOr<const std::vector<std::string>*> GgufStrings(const GgufFile& file,
                                                            std::string_view key);
absl::StatusOr<const std::vector<int64_t>*> GgufInts(const GgufFile& file, std::string_view key);

// What is wrong with a file's contents: kBadCheckpoint, to be converted again.
absl::Status BadGguf(const std::string& what);

}  // namespace octavo
