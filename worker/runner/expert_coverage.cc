#include "worker/runner/expert_coverage.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace octavo {
namespace {

// Appends to `extra` (ascending) the rows of the sample [begin, end) that an expert is to see
// beside those in `routed`, which are ascending too.
void CoverSample(const float* p, int64_t experts, int64_t expert, int64_t begin, int64_t end,
                 std::span<const int64_t> routed, int64_t quota, std::vector<int64_t>* extra) {
  const auto lacking = std::min(quota, end - begin) - static_cast<int64_t>(routed.size());
  if (lacking <= 0) return;
  std::vector<int64_t> others;
  size_t next = 0;
  for (int64_t row = begin; row < end; ++row) {
    if (next < routed.size() && routed[next] == row) {
      ++next;
    } else {
      others.push_back(row);
    }
  }
  const auto chosen = others.begin() + lacking;
  std::partial_sort(others.begin(), chosen, others.end(), [&](int64_t a, int64_t b) {
    const float pa = p[a * experts + expert];
    const float pb = p[b * experts + expert];
    return pa != pb ? pa > pb : a < b;
  });
  std::sort(others.begin(), chosen);
  extra->insert(extra->end(), others.begin(), chosen);
}

}  // namespace

void CoverExperts(const float* p, std::span<const int64_t> samples, int64_t quota,
                  ExpertRoute* route) {
  const auto experts = static_cast<int64_t>(route->begin.size()) - 1;
  std::vector<int64_t> rows;
  std::vector<int64_t> begin = {0};
  std::vector<int64_t> moved;  // by expert: how far its visits move
  for (int64_t e = 0; e < experts; ++e) {
    const auto at = static_cast<size_t>(e);
    const std::span<const int64_t> routed =
        std::span(route->rows)
            .subspan(static_cast<size_t>(route->begin[at]),
                     static_cast<size_t>(route->begin[at + 1] - route->begin[at]));
    moved.push_back(begin.back() - route->begin[at]);
    rows.insert(rows.end(), routed.begin(), routed.end());
    route->routed_end[at] = static_cast<int64_t>(rows.size());
    int64_t first = 0;
    size_t seen = 0;
    for (const int64_t length : samples) {
      const size_t from = seen;
      while (seen < routed.size() && routed[seen] < first + length) ++seen;
      CoverSample(p, experts, e, first, first + length, routed.subspan(from, seen - from), quota,
                  &rows);
      first += length;
    }
    begin.push_back(static_cast<int64_t>(rows.size()));
  }
  for (int64_t& visit : route->visits) {
    const auto expert = std::upper_bound(route->begin.begin(), route->begin.end(), visit) -
                        route->begin.begin() - 1;
    visit += moved[static_cast<size_t>(expert)];
  }
  route->begin = std::move(begin);
  route->rows = std::move(rows);
}

}  // namespace octavo
