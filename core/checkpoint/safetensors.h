#pragma once

// The safetensors format: u64 little-endian header length n, n bytes of JSON, then the tensors'
// bytes. Headers only: the bytes of tensors are never read here. Source: the format's README and
// its reference reader; where the two differ the stricter one is taken (duplicate names are
// refused).

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/checksum.h"
#include "core/store/store.h"
#include "core/tensor/dtype.h"
#include "octavo/v1/types.pb.h"

namespace octavo {

// Header length from the first 8 bytes; kBadCheckpoint when the file is shorter, when n >
// 100,000,000 or when 8 + n does not fit in the file. `first_bytes` may be shorter than 8 only if
// the file is.
absl::StatusOr<uint64_t> HeaderLength(std::string_view first_bytes, uint64_t file_size,
                                      std::string_view file_name);

// Parses the first 8 + n bytes of a file (`bytes` may hold more; the rest is not looked at).
// Returns the tensors in offset order with absolute byte ranges and TensorSpec.file = file_name.
// Every violation of the format is kBadCheckpoint naming file, tensor and byte offset: invalid
// UTF-8 or JSON, duplicate names, unknown or sub-byte dtypes (kUnsupported), non-integer or
// overflowing numbers, a range that is not the shape's size, holes, overlaps, trailing bytes. A
// tensor whose bytes do not lie at a multiple of its element size in the data section is
// kBadCheckpoint too.
absl::StatusOr<std::vector<v1::TensorSpec>> ParseHeader(std::string_view bytes, uint64_t file_size,
                                                        std::string_view file_name);

struct SafetensorsFile {
  std::vector<v1::TensorSpec> tensors;  // in offset order
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  Digest128 header_digest;  // of the first 8 + n bytes
};

// Reads and parses the header of dir/name.
absl::StatusOr<SafetensorsFile> ReadSafetensors(const Store& store, const std::string& dir,
                                                const std::string& name);

struct NewTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
};

struct BuiltHeader {
  std::string bytes;                    // 8 + n bytes: what the file begins with
  std::vector<v1::TensorSpec> tensors;  // in offset order, absolute ranges
  uint64_t file_size = 0;
};

// The header the reference writer would write: tensors by dtype descending in the reference's order
// then by name, no gaps, {"format":"pt"} first, padded with spaces to a multiple of 8. REQUIRES
// unique names, valid dtypes.
BuiltHeader BuildHeader(std::span<const NewTensor> tensors, std::string_view file_name);

// Elements times element size; nothing on overflow.
std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape);

}  // namespace octavo
