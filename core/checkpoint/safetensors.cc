#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/safetensors_json.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

// The reference's order of alignment, ascending; a writer sorts descending.
constexpr std::array kDTypeOrder = {
    DType::kBool, DType::kU8,  DType::kI8,  DType::kF8E5M2, DType::kF8E4M3,
    DType::kI16,  DType::kU16, DType::kF16, DType::kBF16,   DType::kI32,
    DType::kU32,  DType::kF32, DType::kF64, DType::kI64,    DType::kU64,
};

// Well formed, but nothing Octavo reads.
constexpr std::array<std::string_view, 7> kForeignDTypes = {
    "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};

int OrderOf(DType dtype) {
  return static_cast<int>(std::find(kDTypeOrder.begin(), kDTypeOrder.end(), dtype) -
                          kDTypeOrder.begin());
}

uint64_t LoadU64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

absl::Status Bad(std::string_view what, std::string_view file, std::string_view tensor,
                 std::optional<uint64_t> offset,
                 std::string_view cure = "Download the file again") {
  return MakeError(Reason::kBadCheckpoint, what, {file, tensor, offset}, cure);
}

// Checks one tensor on its own and makes its spec with an absolute range.
absl::StatusOr<v1::TensorSpec> SpecOf(const HeaderEntry& entry, uint64_t data_begin,
                                      uint64_t data_size, std::string_view file) {
  const std::optional<DType> dtype = DTypeFromName(entry.dtype);
  if (!dtype) {
    const bool foreign = std::find(kForeignDTypes.begin(), kForeignDTypes.end(), entry.dtype) !=
                         kForeignDTypes.end();
    return MakeError(foreign ? Reason::kUnsupported : Reason::kBadCheckpoint,
                     fmt::format("{} dtype {}", foreign ? "unsupported" : "unknown", entry.dtype),
                     {file, entry.name, entry.json_offset},
                     "Weights must be F32, F16, BF16 or 8-bit codes with scales");
  }
  std::vector<int64_t> shape;
  for (uint64_t dim : entry.shape) {
    if (dim > static_cast<uint64_t>(INT64_MAX)) {
      return Bad("size of an axis overflows", file, entry.name, entry.json_offset);
    }
    shape.push_back(static_cast<int64_t>(dim));
  }
  const std::optional<uint64_t> bytes = TensorBytes(*dtype, shape);
  if (!bytes) return Bad("shape overflows", file, entry.name, entry.json_offset);
  if (entry.begin > entry.end) {
    return Bad("data_offsets run backwards", file, entry.name, entry.json_offset);
  }
  if (entry.end > data_size) {
    return Bad(fmt::format("data ends {} bytes after the file's end", entry.end - data_size), file,
               entry.name, data_begin + entry.begin, "The file is truncated: download it again");
  }
  if (entry.end - entry.begin != *bytes) {
    return Bad(fmt::format("data_offsets span {} bytes but dtype and shape need {}",
                           entry.end - entry.begin, *bytes),
               file, entry.name, data_begin + entry.begin);
  }
  if (entry.begin % static_cast<uint64_t>(ByteSize(*dtype)) != 0) {
    return Bad("data is not aligned to its dtype", file, entry.name, data_begin + entry.begin,
               "Save the checkpoint again with a current safetensors library");
  }
  v1::TensorSpec spec;
  spec.set_name(entry.name);
  spec.set_dtype(ToProto(*dtype));
  spec.mutable_shape()->Assign(shape.begin(), shape.end());
  spec.set_file(std::string(file));
  spec.set_begin(data_begin + entry.begin);
  spec.set_end(data_begin + entry.end);
  return spec;
}

// The tensors, sorted, tile the data section: no holes, no overlaps, nothing after the last.
absl::Status CheckTiling(std::span<const v1::TensorSpec> tensors, uint64_t data_begin,
                         uint64_t file_size, std::string_view file) {
  uint64_t at = data_begin;
  for (const v1::TensorSpec& tensor : tensors) {
    if (tensor.begin() < at) {
      return Bad("data overlaps the tensor before it", file, tensor.name(), tensor.begin());
    }
    if (tensor.begin() > at) {
      return Bad(fmt::format("{} unused bytes before its data", tensor.begin() - at), file,
                 tensor.name(), at);
    }
    at = tensor.end();
  }
  if (at != file_size) {
    return Bad(fmt::format("{} bytes after the last tensor", file_size - at), file, {}, at);
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape) {
  // A zero anywhere makes zero bytes, but the other axes must still be numbers of elements.
  uint64_t elements = 1;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements)) {
      return std::nullopt;
    }
  }
  if (empty) return 0;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, static_cast<uint64_t>(ByteSize(dtype)), &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<uint64_t> HeaderLength(std::string_view first_bytes, uint64_t file_size,
                                      std::string_view file_name) {
  if (file_size < 8 || first_bytes.size() < 8) {
    return Bad(fmt::format("{} bytes are too few for a safetensors file", file_size), file_name, {},
               0);
  }
  const uint64_t n = LoadU64(first_bytes);
  if (n > kSafetensorsHeaderMax) {
    return Bad(
        fmt::format("header length {} is over the format's limit of {}", n, kSafetensorsHeaderMax),
        file_name, {}, 0, "This is probably not a safetensors file");
  }
  if (n > file_size - 8) {
    return Bad(fmt::format("header of {} bytes does not fit a file of {}", n, file_size), file_name,
               {}, 0, "The file is truncated: download it again");
  }
  return n;
}

absl::StatusOr<std::vector<v1::TensorSpec>> ParseHeader(std::string_view bytes, uint64_t file_size,
                                                        std::string_view file_name) {
  OCTAVO_ASSIGN_OR_RETURN(const uint64_t n, HeaderLength(bytes, file_size, file_name));
  if (bytes.size() < 8 + n) {
    return MakeError(Reason::kInternal, "header was not read whole", {.file = file_name});
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<HeaderEntry> entries,
                          ParseHeaderJson(bytes.substr(8, n), file_name));
  std::vector<v1::TensorSpec> tensors;
  tensors.reserve(entries.size());
  absl::flat_hash_set<std::string_view> names;
  for (const HeaderEntry& entry : entries) {
    if (!names.insert(entry.name).second) {
      return Bad("name appears twice in the header", file_name, entry.name, entry.json_offset);
    }
    OCTAVO_ASSIGN_OR_RETURN(v1::TensorSpec spec,
                            SpecOf(entry, 8 + n, file_size - 8 - n, file_name));
    tensors.push_back(std::move(spec));
  }
  std::sort(tensors.begin(), tensors.end(), [](const v1::TensorSpec& a, const v1::TensorSpec& b) {
    return std::pair(a.begin(), a.end()) < std::pair(b.begin(), b.end());
  });
  OCTAVO_RETURN_IF_ERROR(CheckTiling(tensors, 8 + n, file_size, file_name));
  return tensors;
}

absl::StatusOr<SafetensorsFile> ReadSafetensors(const Store& store, const std::string& dir,
                                                const std::string& name) {
  const std::string path = JoinPath(dir, name);
  SafetensorsFile out;
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
  out.size = facts.size;
  out.mtime_ns = facts.mtime_ns;
  std::string bytes(std::min<uint64_t>(8, facts.size), '\0');
  OCTAVO_RETURN_IF_ERROR(store.ReadAt(path, 0, std::as_writable_bytes(std::span(bytes))));
  OCTAVO_ASSIGN_OR_RETURN(const uint64_t n, HeaderLength(bytes, facts.size, name));
  bytes.resize(8 + n);
  OCTAVO_RETURN_IF_ERROR(
      store.ReadAt(path, 8, std::as_writable_bytes(std::span(bytes)).subspan(8)));
  OCTAVO_ASSIGN_OR_RETURN(out.tensors, ParseHeader(bytes, facts.size, name));
  out.header_digest = DigestOf(bytes);
  return out;
}

BuiltHeader BuildHeader(std::span<const NewTensor> tensors, std::string_view file_name) {
  std::vector<const NewTensor*> order;
  for (const NewTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const NewTensor* a, const NewTensor* b) {
    const int oa = OrderOf(a->dtype), ob = OrderOf(b->dtype);
    return oa != ob ? oa > ob : a->name < b->name;
  });
  BuiltHeader out;
  std::string json = R"({"__metadata__":{"format":"pt"})";
  uint64_t at = 0;
  for (const NewTensor* tensor : order) {
    const std::optional<uint64_t> bytes = TensorBytes(tensor->dtype, tensor->shape);
    OCTAVO_CHECK(bytes.has_value() && tensor->dtype != DType::kInvalid);
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(tensor->name).dump(), Name(tensor->dtype),
                        fmt::join(tensor->shape, ","), at, at + *bytes);
    v1::TensorSpec spec;
    spec.set_name(tensor->name);
    spec.set_dtype(ToProto(tensor->dtype));
    spec.mutable_shape()->Assign(tensor->shape.begin(), tensor->shape.end());
    spec.set_file(std::string(file_name));
    spec.set_begin(at);
    spec.set_end(at + *bytes);
    out.tensors.push_back(std::move(spec));
    at += *bytes;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  OCTAVO_CHECK(json.size() <= kSafetensorsHeaderMax);
  for (int i = 0; i < 8; ++i) out.bytes += static_cast<char>(json.size() >> (8 * i) & 0xff);
  out.bytes += json;
  for (v1::TensorSpec& spec : out.tensors) {
    spec.set_begin(spec.begin() + out.bytes.size());
    spec.set_end(spec.end() + out.bytes.size());
  }
  out.file_size = at + out.bytes.size();
  return out;
}

}  // namespace octavo
