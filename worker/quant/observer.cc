#include "worker/quant/observer.h"

#include <cstring>

#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"

namespace octavo {
namespace {

constexpr size_t kBins = 32768;
constexpr uint32_t kMinNormalBin = 0x0080;

// Four values are read at once: what it costs is the update of the counters, which lie in the first
// level of cache (magnitudes spread over a few thousand bins). There is no vector twin: conflicting
// counters in one vector cost more than they save.
void Count(const uint16_t* x, size_t count, uint64_t* counts) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    uint64_t four;
    std::memcpy(&four, x + i, sizeof(four));
    ++counts[four & 0x7fffu];
    ++counts[(four >> 16) & 0x7fffu];
    ++counts[(four >> 32) & 0x7fffu];
    ++counts[(four >> 48) & 0x7fffu];
  }
  for (; i < count; ++i) ++counts[x[i] & 0x7fffu];
}

NonFiniteValue FirstNonFinite(const uint16_t* x, int64_t row) {
  int64_t column = 0;
  while (IsFiniteAmax(MagnitudeBitsOfBf16(x[column]))) ++column;
  return {row, column, MagnitudeBitsOfBf16(x[column]) != kF32InfBits};
}

}  // namespace

PointObserver::PointObserver(v1::Observer kind, Isa isa)
    : counts_values_(kind == v1::OBSERVER_PERCENTILE || kind == v1::OBSERVER_MSE),
      ops_(&QuantizeActivationOpsFor(isa)) {
  OCTAVO_CHECK(counts_values_ || kind == v1::OBSERVER_ABSMAX);
}

std::optional<NonFiniteValue> PointObserver::Add(const uint16_t* x, int64_t rows, int64_t columns,
                                                 int64_t stride) {
  FpEnv env;
  const auto count = static_cast<size_t>(columns);
  if (counts_values_ && counts_ == nullptr && rows * columns > 0) {
    counts_ = std::make_unique<uint64_t[]>(kBins);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t* at = x + row * stride;
    const uint32_t amax = ops_->amax(at, count);
    if (!IsFiniteAmax(amax)) return FirstNonFinite(at, row);
    amax_bits_ = MergeAmax(amax_bits_, amax);
    ++rows_;
    if (counts_ != nullptr) Count(at, count, counts_.get());
  }
  return std::nullopt;
}

void PointObserver::Merge(const PointObserver& other) {
  OCTAVO_CHECK(counts_values_ == other.counts_values_);
  amax_bits_ = MergeAmax(amax_bits_, other.amax_bits_);
  rows_ += other.rows_;
  if (other.counts_ == nullptr) return;
  if (counts_ == nullptr) counts_ = std::make_unique<uint64_t[]>(kBins);
  for (size_t bin = 0; bin < kBins; ++bin) counts_[bin] += other.counts_[bin];
}

v1::PointStat PointObserver::ToStat() const {
  v1::PointStat stat;
  stat.set_amax_bits(amax_bits_);
  stat.set_rows(rows_);
  if (counts_ == nullptr) return stat;
  uint64_t zeros = 0;
  for (uint32_t bin = 0; bin < kMinNormalBin; ++bin) zeros += counts_[bin];
  if (zeros > 0) {
    stat.add_bins(0);
    stat.add_counts(zeros);
  }
  for (uint32_t bin = kMinNormalBin; bin < kBins; ++bin) {
    if (counts_[bin] == 0) continue;
    stat.add_bins(bin);
    stat.add_counts(counts_[bin]);
  }
  return stat;
}

}  // namespace octavo
