#pragma once

// Sizes, rates and times as people type and read them.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace octavo {

// "4GiB", "40MB", "512 KiB", "1048576", "1.5G" (G alone is GiB). `flag` is named in the kUsage
// error.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text, std::string_view flag);

// "1.2 GiB/s"; "-" for zero and below.
std::string RateText(double bytes_per_second);

// "0.4 s", "12 s", "3 min 20 s", "2 h 5 min".
std::string DurationText(double seconds);

// [#####.....] of `width` characters between the brackets.
std::string BarText(double fraction, int width);

}  // namespace octavo
