#include "worker/stage/expert_rows.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "worker/stage/layer_stats.h"

namespace octavo {

absl::StatusOr<ExpertRows> ExpertRows::Read(const std::string& dir, uint32_t layer,
                                            v1::ObservedPoint point, int batches) {
  constexpr int32_t kExpertsMax = 1 << 16;
  ExpertRows out;
  for (int batch = 0; batch < batches; ++batch) {
    OCTAVO_ASSIGN_OR_RETURN(const LayerStatsFile file,
                            ReadLayerStats(dir, layer, static_cast<uint32_t>(batch)));
    bool good = true;
    std::vector<int64_t>& counts = out.counts_.emplace_back();
    for (const v1::PointStat& stat : file.stats.points()) {
      if (stat.point() != point) continue;
      good &= stat.expert() >= 0 && stat.expert() < kExpertsMax;
      if (!good) break;
      const auto expert = static_cast<size_t>(stat.expert());
      if (counts.size() <= expert) counts.resize(expert + 1);
      counts[expert] += static_cast<int64_t>(stat.rows());
    }
    if (!good) {
      return MakeError(Reason::kCorrupted, "not statistics of a layer with experts",
                       {.file = file.path});
    }
  }
  return out;
}

int64_t ExpertRows::CountOf(int32_t expert) const { return CountRows(Of(expert)); }

bool ExpertRows::AnyShrinks(int64_t channels) const {
  size_t experts = 0;
  for (const auto& counts : counts_) experts = std::max(experts, counts.size());
  for (size_t expert = 0; expert < experts; ++expert) {
    const int64_t count = CountOf(static_cast<int32_t>(expert));
    if (count >= ExpertLeastTokens(channels) && count < ExpertEnoughTokens(channels)) return true;
  }
  return false;
}

std::vector<KeptRows> ExpertRows::Of(int32_t expert) const {
  const auto at = static_cast<size_t>(expert);
  std::vector<KeptRows> out;
  for (size_t batch = 0; batch < counts_.size(); ++batch) {
    const std::vector<int64_t>& counts = counts_[batch];
    if (counts.size() <= at || counts[at] == 0) continue;
    const int64_t before = std::accumulate(counts.begin(), counts.begin() + expert, int64_t{0});
    out.push_back({static_cast<uint32_t>(batch), static_cast<uint64_t>(before), counts[at], 1});
  }
  return out;
}

std::vector<KeptRows> ExpertRows::OfAll(int64_t most) const {
  std::vector<int64_t> rows;  // by micro-batch
  for (const auto& counts : counts_) {
    rows.push_back(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  }
  const int64_t step =
      std::max<int64_t>(1, CeilDiv(std::accumulate(rows.begin(), rows.end(), int64_t{0}), most));
  std::vector<KeptRows> out;
  int64_t before = 0;
  for (size_t batch = 0; batch < rows.size(); ++batch) {
    const int64_t begin = RoundUp(before, step) - before;
    if (begin < rows[batch]) {
      out.push_back({static_cast<uint32_t>(batch), static_cast<uint64_t>(begin),
                     CeilDiv(rows[batch] - begin, step), step});
    }
    before += rows[batch];
  }
  return out;
}

std::vector<KeptRows> KeptOfTokens(const v1::Task& task) {
  const v1::HessianSpec& spec = task.unit().hessian();
  std::vector<KeptRows> rows;
  for (int batch = 0; batch < task.solve().batches_size(); ++batch) {
    const v1::MicroBatch& cut = task.solve().batches(batch);
    const uint64_t begin = std::max(cut.token_begin(), spec.token_begin());
    const uint64_t end = std::min(cut.token_end(), spec.token_end());
    if (begin >= end) continue;
    rows.push_back({static_cast<uint32_t>(batch), begin - cut.token_begin(),
                    static_cast<int64_t>(end - begin), 1});
  }
  return rows;
}

int64_t CountRows(const std::vector<KeptRows>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0},
                         [](int64_t sum, const KeptRows& run) { return sum + run.count; });
}

}  // namespace octavo
