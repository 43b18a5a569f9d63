#pragma once

// Figures over windows of a text: means with their standard errors.

#include <optional>
#include <span>
#include <vector>

namespace octavo {

struct MeanError {
  double mean = 0;
  std::optional<double> error;  // standard error of the mean; nothing for fewer than two values
};

// REQUIRES: values not empty.
MeanError MeanOf(std::span<const double> values);

// Of b[i] - a[i]: two measurements of the same windows. REQUIRES: equally many, not none.
MeanError PairedDifference(std::span<const double> a, std::span<const double> b);

// The smallest value that at least `share` (0..1) of the values do not exceed. REQUIRES: values not
// empty.
double Quantile(std::vector<double> values, double share);

}  // namespace octavo
