#include "cli/statistics.h"

#include <algorithm>
#include <cmath>

#include "core/base/status.h"

namespace octavo {

MeanError MeanOf(std::span<const double> values) {
  OCTAVO_CHECK(!values.empty());
  const auto count = static_cast<double>(values.size());
  double sum = 0;
  for (const double value : values) sum += value;
  MeanError result{.mean = sum / count, .error = std::nullopt};
  if (values.size() < 2) return result;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.error = std::sqrt(squares / (count - 1) / count);
  return result;
}

MeanError PairedDifference(std::span<const double> a, std::span<const double> b) {
  OCTAVO_CHECK(a.size() == b.size());
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) differences.push_back(b[i] - a[i]);
  return MeanOf(differences);
}

double Quantile(std::vector<double> values, double share) {
  OCTAVO_CHECK(!values.empty());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
  const size_t index = std::min(rank > 0 ? rank - 1 : 0, values.size() - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index),
                   values.end());
  return values[index];
}

}  // namespace octavo
