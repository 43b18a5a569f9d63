#include "core/scheme/point_stats.h"

#include <limits>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status Damaged(const v1::PointStat& stat, std::string_view what) {
  return MakeError(Reason::kCorrupted, fmt::format("statistics of {}: {}", PointName(stat), what));
}

bool IsSubnormal(uint32_t magnitude_bits) {
  return magnitude_bits != 0 && magnitude_bits < 0x0080u << 16;
}

}  // namespace

std::string PointName(const v1::PointStat& stat) {
  std::string_view point = v1::ObservedPoint_IsValid(stat.point())
                               ? std::string_view(v1::ObservedPoint_Name(stat.point()))
                               : "UNKNOWN";
  constexpr std::string_view kPrefix = "OBSERVED_";
  if (point.starts_with(kPrefix)) point.remove_prefix(kPrefix.size());
  if (stat.expert() < 0) return fmt::format("layer {}, {}", stat.layer(), point);
  return fmt::format("layer {}, expert {}, {}", stat.layer(), stat.expert(), point);
}

absl::Status CheckPointStat(const v1::PointStat& stat) {
  const uint32_t amax = stat.amax_bits();
  if (amax >= kPointBinEnd << 16) return Damaged(stat, "the maximum is not finite");
  if (stat.routed() > stat.rows()) return Damaged(stat, "more rows were routed than seen");
  if (IsSubnormal(amax)) return Damaged(stat, "the maximum is subnormal");
  if (stat.bins_size() != stat.counts_size()) {
    return Damaged(stat, fmt::format("{} bins, {} counts", stat.bins_size(), stat.counts_size()));
  }
  for (int i = 0; i < stat.bins_size(); ++i) {
    const uint32_t bin = stat.bins(i);
    if (bin >= kPointBinEnd || IsSubnormal(bin << 16)) {
      return Damaged(stat, fmt::format("bin {} is no magnitude", bin));
    }
    if (i > 0 && bin <= stat.bins(i - 1)) {
      return Damaged(stat, fmt::format("bin {} comes after bin {}", bin, stat.bins(i - 1)));
    }
    if (stat.counts(i) == 0) return Damaged(stat, fmt::format("bin {} counts nothing", bin));
  }
  if (stat.bins_size() > 0 && stat.bins(stat.bins_size() - 1) << 16 != amax) {
    return Damaged(stat, fmt::format("the last bin is {}, the maximum {:#x}",
                                     stat.bins(stat.bins_size() - 1), amax));
  }
  return absl::OkStatus();
}

absl::Status AddPointStat(const v1::PointStat& from, v1::PointStat* into) {
  if (from.rows() > 0 && into->rows() > 0 && from.bins().empty() != into->bins().empty()) {
    return Damaged(from, "only some of what is merged has a distribution");
  }
  v1::PointStat merged;
  int a = 0;
  int b = 0;
  while (a < from.bins_size() || b < into->bins_size()) {
    const uint32_t bin_a = a < from.bins_size() ? from.bins(a) : kPointBinEnd;
    const uint32_t bin_b = b < into->bins_size() ? into->bins(b) : kPointBinEnd;
    const uint64_t count_a = bin_a <= bin_b ? from.counts(a++) : 0;
    const uint64_t count_b = bin_b <= bin_a ? into->counts(b++) : 0;
    if (count_a > std::numeric_limits<uint64_t>::max() - count_b) {
      return Damaged(from, fmt::format("bin {} counts too many values", bin_a));
    }
    merged.add_bins(bin_a < bin_b ? bin_a : bin_b);
    merged.add_counts(count_a + count_b);
  }
  if (from.rows() > std::numeric_limits<uint64_t>::max() - into->rows()) {
    return Damaged(from, "too many rows");
  }
  into->set_rows(into->rows() + from.rows());
  into->set_routed(into->routed() + from.routed());
  if (from.amax_bits() > into->amax_bits()) into->set_amax_bits(from.amax_bits());
  into->mutable_bins()->Swap(merged.mutable_bins());
  into->mutable_counts()->Swap(merged.mutable_counts());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::PointStat>> MergePointStats(std::span<const v1::PointStat> stats) {
  std::map<std::tuple<int32_t, int32_t, int>, v1::PointStat> merged;
  for (const v1::PointStat& stat : stats) {
    OCTAVO_RETURN_IF_ERROR(CheckPointStat(stat));
    const auto [at, is_new] =
        merged.try_emplace({stat.layer(), stat.expert(), static_cast<int>(stat.point())}, stat);
    if (!is_new) OCTAVO_RETURN_IF_ERROR(AddPointStat(stat, &at->second));
  }
  std::vector<v1::PointStat> result;
  result.reserve(merged.size());
  for (auto& [key, stat] : merged) result.push_back(std::move(stat));
  return result;
}

}  // namespace octavo
