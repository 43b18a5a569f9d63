#include "core/checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/printable.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint64_t kHeadMax = 256u << 20;
constexpr uint64_t kFirstRead = 4u << 20;
constexpr uint64_t kKeyMax = 65'535;
constexpr uint64_t kTensorNameMax = 64;
constexpr uint32_t kAxesMax = 4;
constexpr uint64_t kAlignmentMax = 1u << 16;

enum ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

uint64_t SizeOfType(uint32_t type) {
  constexpr uint8_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < std::size(kSizes) ? kSizes[type] : 0;
}

// Walks the head. After the first failure every read gives zeros; the caller asks `failed` where it
// matters.
class Cursor {
 public:
  Cursor(std::string_view head, uint64_t file_size, std::string_view file)
      : head_(head), file_size_(file_size), file_(file) {}

  uint64_t at() const { return at_; }
  uint64_t left_in_file() const { return file_size_ - at_; }
  bool failed() const { return short_ || !error_.ok(); }
  bool wants_more() const { return short_ && error_.ok(); }
  const absl::Status& error() const { return error_; }

  bool Fail(std::string_view what, std::string_view tensor = {}) {
    if (!failed()) {
      error_ =
          MakeError(Reason::kBadCheckpoint, what, {file_, tensor, at_}, "Download the file again");
    }
    return false;
  }

  template <typename T>
  T Take() {
    T value{};
    if (Need(sizeof(T))) {
      std::memcpy(&value, head_.data() + at_, sizeof(T));
      at_ += sizeof(T);
    }
    return value;
  }

  std::string TakeString(uint64_t length_max, std::string_view what) {
    const uint64_t length = Take<uint64_t>();
    if (failed()) return {};
    if (length > length_max) {
      Fail(fmt::format("{} of {} bytes", what, length));
      return {};
    }
    if (!Need(length)) return {};
    std::string text(head_.substr(at_, length));
    at_ += length;
    return text;
  }

 private:
  bool Need(uint64_t bytes) {
    if (failed()) return false;
    if (bytes > file_size_ - at_) return Fail("file ends inside its metadata");
    if (bytes > head_.size() - at_) {
      short_ = true;
      return false;
    }
    return true;
  }

  std::string_view head_;
  uint64_t file_size_;
  std::string_view file_;
  uint64_t at_ = 0;
  bool short_ = false;
  absl::Status error_;
};

int64_t TakeInteger(Cursor& in, uint32_t type) {
  switch (type) {
    case kU8:
      return in.Take<uint8_t>();
    case kI8:
      return in.Take<int8_t>();
    case kU16:
      return in.Take<uint16_t>();
    case kI16:
      return in.Take<int16_t>();
    case kU32:
      return in.Take<uint32_t>();
    case kI32:
      return in.Take<int32_t>();
    case kI64:
      return in.Take<int64_t>();
    case kU64: {
      const uint64_t value = in.Take<uint64_t>();
      if (value > uint64_t{INT64_MAX}) in.Fail("integer overflows");
      return static_cast<int64_t>(value);
    }
    default:
      return 0;
  }
}

bool TakeBool(Cursor& in) {
  const uint8_t value = in.Take<uint8_t>();
  if (value > 1) in.Fail("boolean is neither 0 nor 1");
  return value == 1;
}

double TakeFloat(Cursor& in, uint32_t type) {
  return type == kF32 ? static_cast<double>(in.Take<float>()) : in.Take<double>();
}

template <typename T, typename Make>
std::vector<T> TakeMany(Cursor& in, uint64_t count, const Make& make) {
  std::vector<T> items;
  // Not reserved: what is left of the file bounds `count`, but the head may hold less.
  for (uint64_t i = 0; i < count && !in.failed(); ++i) items.push_back(make());
  return items;
}

GgufValue TakeArray(Cursor& in) {
  const uint32_t type = in.Take<uint32_t>();
  const uint64_t count = in.Take<uint64_t>();
  const uint64_t size = SizeOfType(type);
  if (!in.failed() && (size == 0 || type == kArray)) in.Fail("array of an unknown type");
  if (!in.failed() && count > in.left_in_file() / size) {
    in.Fail(fmt::format("array of {} items does not fit the file", count));
  }
  if (in.failed()) return GgufArray();
  switch (type) {
    case kString:
      return TakeMany<std::string>(in, count,
                                   [&] { return in.TakeString(in.left_in_file(), "string"); });
    case kBool:
      return TakeMany<bool>(in, count, [&] { return TakeBool(in); });
    case kF32:
    case kF64:
      return TakeMany<double>(in, count, [&] { return TakeFloat(in, type); });
    default:
      return TakeMany<int64_t>(in, count, [&] { return TakeInteger(in, type); });
  }
}

GgufValue TakeValue(Cursor& in) {
  const uint32_t type = in.Take<uint32_t>();
  switch (type) {
    case kString:
      return in.TakeString(in.left_in_file(), "string");
    case kArray:
      return TakeArray(in);
    case kBool:
      return TakeBool(in);
    case kF32:
    case kF64:
      return TakeFloat(in, type);
    default:
      if (SizeOfType(type) == 0) in.Fail(fmt::format("unknown type {} of a value", type));
      return TakeInteger(in, type);
  }
}

bool TakeMetadata(Cursor& in, uint64_t count, GgufFile& out) {
  constexpr uint64_t kLeast = 8 + 4 + 1;
  if (!in.failed() && count > in.left_in_file() / kLeast) {
    return in.Fail(fmt::format("{} metadata keys do not fit the file", count));
  }
  for (uint64_t i = 0; i < count && !in.failed(); ++i) {
    std::string key = in.TakeString(kKeyMax, "key");
    GgufValue value = TakeValue(in);
    if (in.failed()) break;
    if (const auto [it, fresh] = out.metadata.emplace(std::move(key), std::move(value)); !fresh) {
      in.Fail(fmt::format("metadata key {} appears twice", Printable(it->first)));
    }
  }
  return !in.failed();
}

// The tensor's range is relative to the data section until PlaceTensors.
GgufTensor TakeTensor(Cursor& in) {
  GgufTensor tensor;
  tensor.name = in.TakeString(kTensorNameMax, "tensor name");
  const uint32_t axes = in.Take<uint32_t>();
  if (!in.failed() && (axes < 1 || axes > kAxesMax)) {
    in.Fail(fmt::format("{} axes", axes), Printable(tensor.name));
  }
  uint64_t elements = 1, fastest = 1;
  for (uint32_t i = 0; i < axes && !in.failed(); ++i) {
    const uint64_t dim = in.Take<uint64_t>();
    if (in.failed()) break;
    if (dim == 0 || dim > uint64_t{INT64_MAX} || __builtin_mul_overflow(elements, dim, &elements)) {
      in.Fail("shape is empty or overflows", Printable(tensor.name));
    }
    if (i == 0) fastest = dim;
    tensor.shape.push_back(static_cast<int64_t>(dim));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  tensor.type = in.Take<uint32_t>();
  tensor.begin = in.Take<uint64_t>();
  if (in.failed()) return tensor;
  // Only rows of whole blocks exist; a type without a row in our table cannot be sized.
  if (GgmlBytes(tensor.type, 0).has_value()) {
    const std::optional<uint64_t> bytes = GgmlBytes(tensor.type, elements);
    if (!GgmlBytes(tensor.type, fastest) || !bytes ||
        __builtin_add_overflow(tensor.begin, *bytes, &tensor.end)) {
      in.Fail(fmt::format("rows of {} elements do not suit {}", fastest, GgmlTypeName(tensor.type)),
              Printable(tensor.name));
    }
  }
  return tensor;
}

absl::Status PlaceTensors(GgufFile& out, uint64_t alignment, std::string_view file) {
  std::set<std::string_view> names;
  std::vector<GgufTensor*> order;
  auto bad = [&](std::string_view what, const GgufTensor& tensor) {
    return MakeError(Reason::kBadCheckpoint, what, {file, Printable(tensor.name), tensor.begin},
                     "Download the file again");
  };
  for (GgufTensor& tensor : out.tensors) {
    if (!names.insert(tensor.name).second) return bad("tensor appears twice", tensor);
    if (tensor.begin % alignment != 0) return bad("data is not aligned", tensor);
    const uint64_t room = out.size - out.data_begin;
    if (tensor.begin > room || tensor.end > room) return bad("data ends after the file", tensor);
    const bool sized = tensor.end > 0;
    tensor.begin = sized ? tensor.begin + out.data_begin : 0;
    tensor.end = sized ? tensor.end + out.data_begin : 0;
    if (sized) order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->end) {
      return bad(fmt::format("data overlaps that of {}", Printable(order[i - 1]->name)), *order[i]);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> AlignmentOf(const GgufFile& file, std::string_view name) {
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<int64_t> value, GgufInt(file, "general.alignment"));
  const int64_t alignment = value.value_or(32);
  if (alignment < 1 || alignment > int64_t{kAlignmentMax} ||
      !std::has_single_bit(static_cast<uint64_t>(alignment))) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("general.alignment {} is no small power of two", alignment),
                     {.file = name}, "Download the file again");
  }
  return static_cast<uint64_t>(alignment);
}

absl::Status CheckMagic(Cursor& in, GgufFile& out, std::string_view file) {
  const uint32_t magic = in.Take<uint32_t>();
  out.version = in.Take<uint32_t>();
  if (in.failed()) return in.error();
  if (magic != 0x46554747u) {
    return MakeError(Reason::kBadCheckpoint, "not a GGUF file", {file, {}, 0}, "Check the path");
  }
  if (out.version != 2 && out.version != 3) {
    const bool swapped = out.version != 0 && (out.version & 0xffff) == 0;
    return MakeError(
        Reason::kUnsupported,
        swapped ? std::string("big-endian GGUF") : fmt::format("GGUF version {}", out.version),
        {file, {}, 4}, "Convert the file to GGUF 3, little-endian");
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<std::optional<T>> Scalar(const GgufFile& file, std::string_view key,
                                        std::string_view what) {
  const auto it = file.metadata.find(key);
  if (it == file.metadata.end()) return std::optional<T>();
  if (const T* value = std::get_if<T>(&it->second)) return std::optional<T>(*value);
  return MakeError(Reason::kBadCheckpoint, fmt::format("metadata {} is no {}", key, what), {},
                   "Download the file again");
}

template <typename T>
absl::StatusOr<const std::vector<T>*> Array(const GgufFile& file, std::string_view key,
                                            std::string_view what) {
  const auto it = file.metadata.find(key);
  if (it == file.metadata.end()) return nullptr;
  if (const GgufArray* array = std::get_if<GgufArray>(&it->second)) {
    if (const std::vector<T>* items = std::get_if<std::vector<T>>(array)) return items;
  }
  return MakeError(Reason::kBadCheckpoint, fmt::format("metadata {} is no list of {}", key, what),
                   {}, "Download the file again");
}

}  // namespace

absl::StatusOr<std::optional<GgufFile>> ParseGguf(std::string_view head, uint64_t file_size,
                                                  std::string_view file_name) {
  head = head.substr(0, std::min<uint64_t>(head.size(), file_size));
  Cursor in(head, file_size, file_name);
  GgufFile out;
  out.size = file_size;
  OCTAVO_RETURN_IF_ERROR(CheckMagic(in, out, file_name));
  const uint64_t tensor_count = in.Take<uint64_t>();
  const uint64_t key_count = in.Take<uint64_t>();
  constexpr uint64_t kLeastTensor = 8 + 4 + 8 + 4 + 8;
  if (!in.failed() && tensor_count > in.left_in_file() / kLeastTensor) {
    in.Fail(fmt::format("{} tensors do not fit the file", tensor_count));
  }
  TakeMetadata(in, key_count, out);
  for (uint64_t i = 0; i < tensor_count && !in.failed(); ++i) {
    out.tensors.push_back(TakeTensor(in));
  }
  if (in.wants_more()) return std::optional<GgufFile>();
  OCTAVO_RETURN_IF_ERROR(in.error());
  OCTAVO_ASSIGN_OR_RETURN(const uint64_t alignment, AlignmentOf(out, file_name));
  out.data_begin = (in.at() + alignment - 1) / alignment * alignment;
  if (out.data_begin > file_size) {
    if (!out.tensors.empty()) {
      return MakeError(Reason::kBadCheckpoint, "file ends before its data",
                       {file_name, {}, file_size}, "Download the file again");
    }
    out.data_begin = file_size;
  }
  OCTAVO_RETURN_IF_ERROR(PlaceTensors(out, alignment, file_name));
  return out;
}

absl::StatusOr<GgufFile> ReadGguf(const Store& store, const std::string& path) {
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
  for (uint64_t want = kFirstRead;; want *= 4) {
    const uint64_t take = std::min({want, facts.size, kHeadMax});
    std::string head(take, '\0');
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(path, 0, std::as_writable_bytes(std::span(head))));
    OCTAVO_ASSIGN_OR_RETURN(std::optional<GgufFile> file, ParseGguf(head, facts.size, path));
    if (file) return *std::move(file);
    if (take == kHeadMax) {
      return MakeError(Reason::kUnsupported,
                       fmt::format("metadata of more than {} bytes", kHeadMax), {.file = path},
                       "This is probably not a model");
    }
  }
}

absl::StatusOr<std::optional<int64_t>> GgufInt(const GgufFile& file, std::string_view key) {
  return Scalar<int64_t>(file, key, "integer");
}
absl::StatusOr<std::optional<double>> GgufFloat(const GgufFile& file, std::string_view key) {
  return Scalar<double>(file, key, "number");
}
absl::StatusOr<std::optional<bool>> GgufBool(const GgufFile& file, std::string_view key) {
  return Scalar<bool>(file, key, "boolean");
}
absl::StatusOr<std::optional<std::string>> GgufString(const GgufFile& file, std::string_view key) {
  return Scalar<std::string>(file, key, "string");
}
absl::StatusOr<const std::vector<std::string>*> GgufStrings(const GgufFile& file,
                                                            std::string_view key) {
  return Array<std::string>(file, key, "strings");
}
absl::StatusOr<const std::vector<int64_t>*> GgufInts(const GgufFile& file, std::string_view key) {
  return Array<int64_t>(file, key, "integers");
}

absl::Status BadGguf(const std::string& what) {
  return MakeError(Reason::kBadCheckpoint, what, {}, "Convert the model to GGUF again");
}

}  // namespace octavo
