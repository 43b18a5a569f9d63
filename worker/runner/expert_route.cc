#include "worker/runner/expert_route.h"

#include <algorithm>
#include <cstddef>

namespace octavo {

void ChooseLargest(const float* p, int64_t experts, int64_t count, int32_t* chosen) {
  // Insertion into a short list that is sorted by (value descending, index ascending).
  int64_t held = 0;
  for (int32_t e = 0; e < experts; ++e) {
    int64_t at = held;
    while (at > 0 && p[e] > p[chosen[at - 1]]) --at;
    if (at == count) continue;
    held = std::min(held + 1, count);
    for (int64_t i = held - 1; i > at; --i) chosen[i] = chosen[i - 1];
    chosen[at] = e;
  }
  std::sort(chosen, chosen + count);
}

ExpertRoute RouteRows(const SoftmaxOps& softmax, float* logits, int64_t rows, int64_t experts,
                      int64_t per_row, bool normalized) {
  ExpertRoute route;
  const auto visits = static_cast<size_t>(rows * per_row);
  std::vector<int32_t> chosen(visits);
  route.weights.resize(visits);
  route.begin.assign(static_cast<size_t>(experts) + 1, 0);
  for (int64_t row = 0; row < rows; ++row) {
    float* p = logits + row * experts;
    softmax.softmax(p, experts, p);
    int32_t* own = chosen.data() + row * per_row;
    float* weights = route.weights.data() + row * per_row;
    ChooseLargest(p, experts, per_row, own);
    float sum = 0;
    for (int64_t i = 0; i < per_row; ++i) {
      weights[i] = p[own[i]];
      sum += weights[i];
      ++route.begin[static_cast<size_t>(own[i]) + 1];
    }
    for (int64_t i = 0; normalized && i < per_row; ++i) weights[i] /= sum;
  }
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) route.begin[e + 1] += route.begin[e];
  route.routed_end.assign(route.begin.begin() + 1, route.begin.end());
  route.rows.resize(visits);
  route.visits.resize(visits);
  std::vector<int64_t> next(route.begin.begin(), route.begin.end() - 1);
  for (size_t i = 0; i < visits; ++i) {
    const int64_t visit = next[static_cast<size_t>(chosen[i])]++;
    route.visits[i] = visit;
    route.rows[static_cast<size_t>(visit)] = static_cast<int64_t>(i) / per_row;
  }
  return route;
}

}  // namespace octavo
