#include "cli/quantity.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/checkpoint/summary.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<uint64_t> ParseBytes(std::string_view text, std::string_view flag) {
  constexpr double kKi = 1024.0;
  constexpr std::array<std::pair<std::string_view, double>, 14> kUnits = {{
      {"", 1.0},
      {"b", 1.0},
      {"kb", 1e3},
      {"mb", 1e6},
      {"gb", 1e9},
      {"tb", 1e12},
      {"k", kKi},
      {"m", kKi * kKi},
      {"g", kKi * kKi * kKi},
      {"t", kKi * kKi * kKi * kKi},
      {"kib", kKi},
      {"mib", kKi * kKi},
      {"gib", kKi * kKi * kKi},
      {"tib", kKi * kKi * kKi * kKi},
  }};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit;
  for (const char* at = end; at != text.data() + text.size(); ++at) {
    if (*at != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*at)));
  }
  for (const auto& [name, factor] : kUnits) {
    const double bytes = number * factor;
    if (error == std::errc() && unit == name && bytes >= 1 && bytes < 9e18) {
      return static_cast<uint64_t>(std::llround(bytes));
    }
  }
  return MakeError(Reason::kUsage, fmt::format("{} takes a size, not '{}'", flag, text), {},
                   "Write it like 4GiB, 512MiB or 40MB");
}

std::string RateText(double bytes_per_second) {
  if (!(bytes_per_second > 0)) return "-";
  return HumanBytes(static_cast<uint64_t>(bytes_per_second)) + "/s";
}

std::string DurationText(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", std::max(0.0, seconds));
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string BarText(double fraction, int width) {
  const int full = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width);
  return fmt::format("[{}{}]", std::string(static_cast<size_t>(full), '#'),
                     std::string(static_cast<size_t>(width - full), '.'));
}

}  // namespace octavo
