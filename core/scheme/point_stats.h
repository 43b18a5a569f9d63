#pragma once

// What calibration saw, merged. A PointStat (octavo/v1/task.proto) describes the values at one
// point of one layer: their largest magnitude and, for observers that look at the distribution, how
// often each magnitude came. A bin is the 15 magnitude bits of a BF16 number, so bin << 16 is the
// magnitude's F32 bits; subnormals count as zero, in bin 0. Merging takes the larger maximum and
// adds counts: exact, and the same in whatever order and however the rows were cut.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Bins are below this: the magnitude bits of infinity.
inline constexpr uint32_t kPointBinEnd = 0x7f80;

// What every honest statistic holds: a finite maximum without subnormals; as many bins as counts,
// bins ascending and below kPointBinEnd, counts above 0; the last bin is the maximum. Errors:
// kCorrupted naming the point and what does not hold.
absl::Status CheckPointStat(const v1::PointStat& stat);

// Adds `from` to `into`, which keeps its layer, expert and point: the caller says what belongs
// together (a joint scale of several experts merges theirs). REQUIRES: both pass CheckPointStat,
// and both or neither have bins, or no values. Errors: kCorrupted where a count would pass 2^64, or
// where only one of two that saw values has bins; `into` is then unchanged.
absl::Status AddPointStat(const v1::PointStat& from, v1::PointStat* into);

// One statistic for every (layer, expert, point) among `stats`, ascending by these. Each is checked
// first. Errors: as the two above.
absl::StatusOr<std::vector<v1::PointStat>> MergePointStats(std::span<const v1::PointStat> stats);

// "layer 3, expert 1, MLP_INPUT": where a statistic was taken, for messages.
std::string PointName(const v1::PointStat& stat);

}  // namespace octavo
