#pragma once

// What calibration sees at one point of a layer: the BF16 values that a linear reads, or the keys
// or values that a cache stores. Statistics are integers, so that neither the order of the rows,
// nor how they are cut into calls, threads and micro-batches, nor the instruction set shows in
// them.
//
//   absmax           the largest magnitude
//   percentile, mse  also how often each of the magnitudes of BF16 came: 64-bit counters, indexed
//   by
//                    the 15 magnitude bits; no range has to be known beforehand
//
// Subnormals count as zero, as everywhere (docs/numerics.md).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/isa.h"
#include "kernels/quantize_activation.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Where a NaN or an infinity lies, within one call of Add.
struct NonFiniteValue {
  int64_t row = 0;
  int64_t column = 0;
  bool is_nan = false;

  bool operator==(const NonFiniteValue&) const = default;
};

// One thread at a time; others have observers of their own, merged at the end.
class PointObserver {
 public:
  // The counters of an observer that counts, taken when the first value comes.
  static constexpr size_t kCounterBytes = 32768 * sizeof(uint64_t);

  // REQUIRES: `kind` is one of the three; IsSupported(isa).
  PointObserver(v1::Observer kind, Isa isa);

  // Sees rows * columns BF16 values; row r begins at x + r * stride (elements). Returns where the
  // first NaN or infinity lies, if any, for the caller to name the layer and the sample; the
  // observer has then seen the rows before it.
  [[nodiscard]] std::optional<NonFiniteValue> Add(const uint16_t* x, int64_t rows, int64_t columns,
                                                  int64_t stride);

  // Sees what `other` saw. REQUIRES: of the same kind.
  void Merge(const PointObserver& other);

  // Bytes that it holds beside itself: 0 or kCounterBytes.
  size_t counter_bytes() const { return counts_ == nullptr ? 0 : kCounterBytes; }

  // amax_bits, rows and, for observers that count, bins and counts. The caller says where it was:
  // layer, expert and point stay unset.
  v1::PointStat ToStat() const;

 private:
  bool counts_values_;
  const QuantizeActivationOps* ops_;
  uint32_t amax_bits_ = 0;
  uint64_t rows_ = 0;
  std::unique_ptr<uint64_t[]> counts_;
};

}  // namespace octavo
