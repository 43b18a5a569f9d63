#include "worker/quant/static_scale.h"

#include <cmath>
#include <cstdint>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/point_stats.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/int8.h"
#include "fmt/format.h"
#include "worker/quant/piece.h"

namespace octavo {
namespace {

// F32 bits of the smallest magnitude that `percentile` of the values do not exceed.
uint32_t PercentileBits(const v1::PointStat& stat, double percentile) {
  using Wide = unsigned __int128;
  Wide total = 0;
  for (const uint64_t count : stat.counts()) total += count;
  // In integers: 99.9 percent of 1000 values are 999, which no binary fraction would say.
  constexpr uint64_t kUnits = 1'000'000'000;  // of one percent
  const auto units = static_cast<Wide>(std::llround(percentile * kUnits));
  const Wide all = static_cast<Wide>(100) * kUnits;
  Wide seen = 0;
  for (int i = 0; i < stat.bins_size(); ++i) {
    seen += stat.counts(i);
    // seen / total >= units / all, without a product beyond 128 bits: total < 2^79 by 2^15 bins of
    // 64 bits, all < 2^37.
    if (seen * all >= total * units) return stat.bins(i) << 16;
  }
  return stat.amax_bits();
}

float StoredValue(CodeType code, float x) {
  return code == CodeType::kFp8 ? F32FromFp8(Fp8FromF32(x)) : static_cast<float>(Int8FromF32(x));
}

double SquaredError(const v1::PointStat& stat, CodeType code, float scale) {
  const float factor = 1.0f / scale;
  double sum = 0;
  for (int i = 0; i < stat.bins_size(); ++i) {
    const float x = FloatFromBits(stat.bins(i) << 16);
    const double error =
        static_cast<double>(x) - static_cast<double>(StoredValue(code, x * factor)) * scale;
    sum += static_cast<double>(stat.counts(i)) * (error * error);
  }
  return sum;
}

float MseScale(const v1::PointStat& stat, CodeType code, SourceType stored) {
  const float amax = FloatFromBits(stat.amax_bits());
  float best = 0;
  double best_error = 0;
  for (int i = 0; i < kStaticMseGridPoints; ++i) {
    const float range = amax * static_cast<float>(1.0 - i / 100.0);
    const float scale = RoundScale(range / CodeMax(code), stored);
    const double error = SquaredError(stat, code, scale);
    if (i == 0 || error < best_error) {
      best = scale;
      best_error = error;
    }
  }
  return best;
}

}  // namespace

absl::StatusOr<float> StaticScale(const v1::PointStat& stat, const v1::Calibration& calibration,
                                  CodeType code, DType stored, const CompatMode& mode) {
  FpEnv env;
  if (!IsSourceFloat(stored)) {
    return MakeError(Reason::kUnsupported, "static scales are stored as F32, BF16 or F16");
  }
  OCTAVO_RETURN_IF_ERROR(CheckPointStat(stat));
  if (stat.rows() == 0 && stat.amax_bits() == 0) {
    return MakeError(Reason::kBadData,
                     fmt::format("calibration saw no token at {}", PointName(stat)), {},
                     "Calibrate with more samples");
  }
  const SourceType type = SourceTypeOf(stored);
  const v1::Observer observer = calibration.observer();
  if (observer == v1::OBSERVER_ABSMAX) {
    return CompatScale(mode, stat.amax_bits(), CodeMax(code), type);
  }
  if (stat.bins().empty() &&
      (observer == v1::OBSERVER_PERCENTILE || observer == v1::OBSERVER_MSE)) {
    return MakeError(Reason::kCorrupted,
                     fmt::format("statistics of {} lack the distribution", PointName(stat)));
  }
  if (observer == v1::OBSERVER_PERCENTILE) {
    const double percentile = calibration.percentile();
    if (!(percentile > 0 && percentile <= 100)) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("a percentile is above 0 and at most 100, not {}", percentile));
    }
    const uint32_t bits = PercentileBits(stat, percentile);
    return WeightScale(bits == 0 ? stat.amax_bits() : bits, CodeMax(code), type);
  }
  if (observer != v1::OBSERVER_MSE) {
    return MakeError(Reason::kBadRecipe, "calibration needs an observer", {},
                     "Use absmax, percentile or mse");
  }
  return stat.amax_bits() == 0 ? 1.0f : MseScale(stat, code, type);
}

}  // namespace octavo
