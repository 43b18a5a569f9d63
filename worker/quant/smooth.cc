#include "worker/quant/smooth.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/dtype_proto.h"
#include "core/tensor/element.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint16_t kBf16MagnitudeMask = 0x7fff;
constexpr uint16_t kBf16MinNormalBits = 0x0080;

bool IsFinite(float value) { return (BitsOf(value) & kF32MagnitudeMask) < kF32InfBits; }

float PowerOfTwo(int exponent) {
  return FloatFromBits(static_cast<uint32_t>(exponent + 127) << 23);
}

}  // namespace

void AddChannelAmax(const uint16_t* x, int64_t rows, ChannelAmax* amax) {
  const size_t channels = amax->size();
  uint16_t* most = amax->data();
  for (int64_t row = 0; row < rows; ++row, x += channels) {
    for (size_t j = 0; j < channels; ++j) {
      const auto magnitude = static_cast<uint16_t>(x[j] & kBf16MagnitudeMask);
      const auto seen = magnitude < kBf16MinNormalBits ? uint16_t{0} : magnitude;
      most[j] = std::max(most[j], seen);
    }
  }
}

absl::Status AddColumnAmax(const WeightRows& rows, std::vector<uint32_t>* amax) {
  const auto size = static_cast<size_t>(ByteSize(rows.dtype));
  const std::byte* at = rows.bytes.data();
  for (int64_t row = 0; row < rows.rows; ++row) {
    for (size_t j = 0; j < amax->size(); ++j, at += size) {
      const uint32_t magnitude = BitsOf(LoadElement(rows.dtype, at)) & kF32MagnitudeMask;
      if (magnitude >= kF32InfBits) {
        return MakeError(
            Reason::kNonFinite,
            fmt::format("row {} column {} is {}", rows.row_begin + row, j,
                        magnitude > kF32InfBits ? "NaN" : "infinite"),
            {.file = std::string(rows.file),
             .tensor = std::string(rows.tensor),
             .offset = rows.file_offset + static_cast<uint64_t>(at - rows.bytes.data())});
      }
      if (magnitude >= kF32MinNormalBits) (*amax)[j] = std::max((*amax)[j], magnitude);
    }
  }
  return absl::OkStatus();
}

Exponents SmoothingExponents(std::span<const uint16_t> input_amax,
                             std::span<const uint32_t> weight_amax, double strength) {
  const FpEnv env;
  constexpr double kLn2 = 0.6931471805599453;
  Exponents exponents(input_amax.size());
  for (size_t j = 0; j < exponents.size(); ++j) {
    if (input_amax[j] == 0 || weight_amax[j] == 0) continue;
    const double input = Log(F32FromBf16(input_amax[j]));
    const double weight = Log(FloatFromBits(weight_amax[j]));
    const double k = (strength * input - (1 - strength) * weight) / kLn2;
    exponents[j] =
        static_cast<int8_t>(std::clamp<long>(std::lround(k), -kExponentMax, kExponentMax));
  }
  return exponents;
}

absl::Status FoldElements(const v1::TensorSpec& spec, uint64_t offset,
                          std::span<const int8_t> exponents, bool divides,
                          std::span<std::byte> bytes) {
  const FpEnv env;
  const DType dtype = FromProto(spec.dtype());
  const auto size = static_cast<uint64_t>(ByteSize(dtype));
  const int64_t columns = spec.shape_size() == 0 ? 0 : spec.shape(spec.shape_size() - 1);
  if (columns != static_cast<int64_t>(exponents.size()) || !IsSourceFloat(dtype)) {
    return MakeError(Reason::kInternal,
                     fmt::format("{} factors for {} columns", exponents.size(), columns),
                     {.file = spec.file(), .tensor = spec.name()});
  }
  size_t column = static_cast<size_t>(offset / size % exponents.size());
  for (std::byte* at = bytes.data(); at < bytes.data() + bytes.size(); at += size) {
    const int k = divides ? -exponents[column] : exponents[column];
    if (++column == exponents.size()) column = 0;
    if (k == 0) continue;
    const float value = LoadElement(dtype, at);
    StoreElement(dtype, value * PowerOfTwo(k), at);
    if (IsFinite(LoadElement(dtype, at)) || !IsFinite(value)) continue;
    return MakeError(Reason::kNonFinite,
                     fmt::format("{} times 2^{} is beyond {}", value, k, Name(dtype)),
                     {.file = spec.file(),
                      .tensor = spec.name(),
                      .offset = spec.begin() + offset + static_cast<uint64_t>(at - bytes.data())},
                     "Smooth with less strength");
  }
  return absl::OkStatus();
}

}  // namespace octavo
