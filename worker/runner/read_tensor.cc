#include "worker/runner/read_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/two_of_four.h"
#include "core/tensor/dtype.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Reads one stored float as F32.
float StoredFloat(DType dtype, const std::byte* at) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  return dtype == DType::kBF16 ? F32FromBf16(bits) : F32FromF16(bits);
}

// True if any of the BF16 values (8-byte pieces at a time) has an exponent of all ones.
bool HasNonFiniteBf16(std::span<const std::byte> row) {
  uint64_t found = 0;
  size_t i = 0;
  for (; i + 8 <= row.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row.data() + i, 8);
    found |= ((word & 0x7f807f807f807f80u) + 0x0080008000800080u) & 0x8000800080008000u;
  }
  for (; i + 2 <= row.size(); i += 2) {
    uint16_t value = 0;
    std::memcpy(&value, row.data() + i, 2);
    found |= (value & 0x7f80u) == 0x7f80u ? 1 : 0;
  }
  return found != 0;
}

bool HasNanFp8(std::span<const std::byte> row) {
  uint64_t found = 0;
  size_t i = 0;
  for (; i + 8 <= row.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row.data() + i, 8);
    found |= ((word & 0x7f7f7f7f7f7f7f7fu) + 0x0101010101010101u) & 0x8080808080808080u;
  }
  for (; i < row.size(); ++i) {
    found |= (static_cast<uint8_t>(row[i]) & 0x7fu) == 0x7fu ? 1 : 0;
  }
  return found != 0;
}

}  // namespace

SliceBounds BoundsOf(const v1::RankTensor& tensor) {
  const v1::TensorSpec& spec = tensor.tensor().spec();
  SliceBounds bounds;
  bounds.rows = spec.shape(0);
  bounds.columns = spec.shape_size() > 1 ? spec.shape(1) : 1;
  bounds.row_end = bounds.rows;
  bounds.column_end = bounds.columns;
  if (!tensor.has_slice()) return bounds;
  if (tensor.slice().axis() == 0) {
    bounds.row_begin = tensor.slice().begin();
    bounds.row_end = tensor.slice().end();
  } else {
    bounds.column_begin = tensor.slice().begin();
    bounds.column_end = tensor.slice().end();
  }
  return bounds;
}

SliceReader::SliceReader(ShardFiles* files, const v1::RankTensor& tensor)
    : files_(files),
      spec_(tensor.tensor().spec()),
      bounds_(BoundsOf(tensor)),
      in_size_(ByteSize(FromProto(spec_.dtype()))),
      out_size_(in_size_ == 1 ? 1 : 2) {}

absl::Status SliceReader::Check(std::span<const std::byte> row, uint64_t offset) const {
  const ErrorSite site = {.file = spec_.file(), .tensor = spec_.name(), .offset = offset};
  if (out_size_ == 2) {
    if (!HasNonFiniteBf16(row)) return absl::OkStatus();
    return MakeError(Reason::kNonFinite, "a weight is NaN or infinite in the row", site);
  }
  if (spec_.dtype() == v1::F8_E4M3 && HasNanFp8(row)) {
    return MakeError(Reason::kNonFinite, "an FP8 code is NaN in the row", site);
  }
  return absl::OkStatus();
}

// Reads whole bytes of the masks, that is, columns from a multiple of eight to another (or the
// last).
absl::Status SliceReader::ReadPacked(int64_t row_begin, int64_t row_end,
                                     std::vector<std::byte>* out) const {
  const int64_t all = bounds_.columns;
  const int64_t begin = bounds_.column_begin / 8 * 8;
  const int64_t end = std::min((bounds_.column_end + 7) / 8 * 8, all);
  const int64_t rows = row_end - row_begin;
  const int64_t kept_size = (end - begin) / 2, bits_size = BitmaskRowBytes(end - begin);
  const v1::Bitmask& mask = spec_.bitmask();
  const auto bits_at = [&](int64_t row) {
    return mask.begin() + static_cast<uint64_t>(row * BitmaskRowBytes(all) + begin / 8);
  };
  std::vector<std::byte> kept(static_cast<size_t>(rows * kept_size));
  std::vector<std::byte> bits(static_cast<size_t>(rows * bits_size));
  const int64_t step = begin == 0 && end == all ? rows : 1;  // rows that lie behind one another
  for (int64_t row = 0; row < rows; row += step) {
    const auto kept_at = static_cast<uint64_t>(((row_begin + row) * all + begin) / 2);
    OCTAVO_RETURN_IF_ERROR(
        files_->Read(spec_.file(), spec_.begin() + kept_at,
                     std::span(kept).subspan(static_cast<size_t>(row * kept_size),
                                             static_cast<size_t>(step * kept_size)),
                     spec_.name()));
    OCTAVO_RETURN_IF_ERROR(
        files_->Read(mask.file(), bits_at(row_begin + row),
                     std::span(bits).subspan(static_cast<size_t>(row * bits_size),
                                             static_cast<size_t>(step * bits_size)),
                     spec_.name()));
  }
  std::vector<std::byte> full(static_cast<size_t>(end - begin));
  const auto width = static_cast<size_t>(bounds_.column_end - bounds_.column_begin);
  out->resize(static_cast<size_t>(rows) * width);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t wrong =
        ExpandTwoOfFour(reinterpret_cast<const uint8_t*>(kept.data()) + row * kept_size,
                        reinterpret_cast<const uint8_t*>(bits.data()) + row * bits_size,
                        end - begin, reinterpret_cast<uint8_t*>(full.data()));
    if (wrong >= 0) {
      return MakeError(Reason::kBadCheckpoint, "a bitmask does not keep two of four columns",
                       {.file = mask.file(),
                        .tensor = spec_.name(),
                        .offset = bits_at(row_begin + row) + static_cast<uint64_t>(wrong / 8)},
                       "Quantize the model again, or download it again");
    }
    std::memcpy(out->data() + static_cast<size_t>(row) * width,
                full.data() + (bounds_.column_begin - begin), width);
  }
  return absl::OkStatus();
}

absl::Status SliceReader::ReadRows(int64_t row_begin, int64_t row_end,
                                   std::vector<std::byte>* out) const {
  const int64_t width = bounds_.column_end - bounds_.column_begin;
  const int64_t rows = row_end - row_begin;
  const int64_t parts = spec_.has_bitmask() ? 2 : 1;  // a byte on disk stands for so many columns
  const auto offset_of = [&](int64_t row) {
    return spec_.begin() +
           static_cast<uint64_t>((row * bounds_.columns + bounds_.column_begin) * in_size_ / parts);
  };
  const DType dtype = FromProto(spec_.dtype());
  const bool convert = dtype == DType::kF32 || dtype == DType::kF16;
  std::vector<std::byte> stored;
  std::vector<std::byte>& raw =
      convert ? stored : *out;  // `out` keeps its memory from call to call
  raw.resize(static_cast<size_t>(rows * width * in_size_));
  if (spec_.has_bitmask()) {
    OCTAVO_RETURN_IF_ERROR(ReadPacked(row_begin, row_end, out));
  } else if (width == bounds_.columns) {
    OCTAVO_RETURN_IF_ERROR(files_->Read(spec_.file(), offset_of(row_begin), raw, spec_.name()));
  } else {
    const auto row_size = static_cast<size_t>(width * in_size_);
    for (int64_t row = 0; row < rows; ++row) {
      OCTAVO_RETURN_IF_ERROR(files_->Read(
          spec_.file(), offset_of(row_begin + row),
          std::span(raw).subspan(static_cast<size_t>(row) * row_size, row_size), spec_.name()));
    }
  }
  if (convert) {
    out->resize(static_cast<size_t>(rows * width * 2));
    for (int64_t i = 0; i < rows * width; ++i) {
      const uint16_t value = Bf16FromF32(StoredFloat(dtype, raw.data() + i * in_size_));
      std::memcpy(out->data() + i * 2, &value, 2);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    OCTAVO_RETURN_IF_ERROR(Check(std::span(*out).subspan(static_cast<size_t>(row * row_bytes()),
                                                         static_cast<size_t>(row_bytes())),
                                 offset_of(row_begin + row)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint16_t>> ReadVector(ShardFiles* files, const v1::RankTensor& tensor) {
  const SliceReader reader(files, tensor);
  std::vector<std::byte> bytes;
  OCTAVO_RETURN_IF_ERROR(
      reader.ReadRows(reader.bounds().row_begin, reader.bounds().row_end, &bytes));
  std::vector<uint16_t> values(bytes.size() / 2);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> StoredFloats(DType dtype, std::span<const std::byte> bytes) {
  const auto size = static_cast<size_t>(ByteSize(dtype));
  std::vector<float> values(bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = StoredFloat(dtype, bytes.data() + i * size);
  }
  return values;
}

absl::StatusOr<std::vector<float>> ReadScales(ShardFiles* files, const v1::TensorSpec& spec,
                                              int64_t count) {
  const DType dtype = FromProto(spec.dtype());
  int64_t elements = 1;
  for (const int64_t dimension : spec.shape()) elements *= dimension;
  const ErrorSite whole = {.file = spec.file(), .tensor = spec.name()};
  if (!IsSourceFloat(dtype) || elements != count) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("a scale of {} elements where {} are needed", elements, count),
                     whole);
  }
  const int size = ByteSize(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(count * size));
  OCTAVO_RETURN_IF_ERROR(files->Read(spec.file(), spec.begin(), bytes, spec.name()));
  std::vector<float> scales = StoredFloats(dtype, bytes);
  for (int64_t i = 0; i < count; ++i) {
    const float scale = scales[static_cast<size_t>(i)];
    if (!(scale >= kF32MinNormal) || !std::isfinite(scale)) {
      return MakeError(Reason::kBadCheckpoint, fmt::format("a scale of {}", scale),
                       {.file = spec.file(),
                        .tensor = spec.name(),
                        .offset = spec.begin() + static_cast<uint64_t>(i * size)},
                       "quantize the model again");
    }
  }
  return scales;
}

}  // namespace octavo
