// The mixture of experts of one layer: router, visits to experts, weighted sum.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "worker/runner/expert_route.h"
#include "worker/runner/forward.h"

namespace octavo {

// Every rank holds the whole router and comes to the same route.
absl::StatusOr<ExpertRoute> Forward::RouteToExperts(const LayerWeights& weights, int64_t rows) {
  const Linear* router = &weights.router;
  OCTAVO_RETURN_IF_ERROR(
      inputs_.Prepare(std::span(&router, 1), normed_.as<uint16_t>(), hidden_, rows, nullptr));
  const int64_t experts = router->channels;
  LinearJob job = {router, inputs_.For(*router), {}};
  job.output.f32 = router_logits_.as<float>();
  job.output.stride = experts;
  RunLinears(matmul_, pool_, std::span(&job, 1), &workspace_);
  const float* logits = router_logits_.as<float>();
  if (!std::all_of(logits, logits + rows * experts, [](float x) { return std::isfinite(x); })) {
    return MakeError(Reason::kNonFinite, "an activation is NaN or infinite at the router",
                     {.tensor = router->name}, "the model overflows BF16 on this input");
  }
  return RouteRows(softmax_, router_logits_.as<float>(), rows, experts,
                   plan_.model().experts_per_token(), plan_.model().normalized_experts());
}

absl::Status Forward::SeeVisits(v1::ObservedPoint point, const GrowingBuffer& x,
                                const ExpertRoute& route, int64_t columns) {
  if (observe_ == nullptr) return absl::OkStatus();
  for (size_t e = 0; e + 1 < route.begin.size(); ++e) {
    const int64_t begin = route.begin[e];
    OCTAVO_RETURN_IF_ERROR((*observe_)(point, static_cast<int32_t>(e),
                                       x.as<uint16_t>() + begin * columns,
                                       route.begin[e + 1] - begin, columns));
  }
  return absl::OkStatus();
}

// gate_ = silu(gate) * up of every visit, rows of visits in the route's order.
absl::Status Forward::VisitExperts(const LayerWeights& weights, const ExpertRoute& route) {
  const int64_t visits = route.visit_count();
  uint16_t* gathered = gathered_.as<uint16_t>();
  pool_->ParallelFor(visits, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t visit = begin; visit < end; ++visit) {
      std::memcpy(gathered + visit * hidden_,
                  normed_.as<uint16_t>() + route.rows[static_cast<size_t>(visit)] * hidden_,
                  static_cast<size_t>(hidden_) * 2);
    }
  });
  OCTAVO_RETURN_IF_ERROR(SeeVisits(v1::OBSERVED_MLP_INPUT, gathered_, route, hidden_));
  std::vector<InputUse> uses;  // gate and up, expert by expert
  for (size_t e = 0; e < weights.experts.size(); ++e) {
    if (route.begin[e] == route.begin[e + 1]) continue;
    uses.push_back({&weights.experts[e].gate, route.begin[e], route.begin[e + 1]});
    uses.push_back({&weights.experts[e].up, route.begin[e], route.begin[e + 1]});
  }
  OCTAVO_RETURN_IF_ERROR(inputs_.Prepare(uses, gathered, hidden_, nullptr));
  const int64_t inner = weights.experts.front().gate.channels;
  uint16_t* gate = gate_.as<uint16_t>();
  uint16_t* up = up_.as<uint16_t>();
  std::vector<LinearJob> jobs;
  for (const InputUse& use : uses) {
    LinearJob& job = jobs.emplace_back();
    job.linear = use.linear;
    job.input = inputs_.For(use);
    job.output.bf16 = (jobs.size() % 2 == 1 ? gate : up) + use.begin * inner;
    job.output.stride = inner;
  }
  RunLinears(matmul_, pool_, jobs, &workspace_);
  pool_->ParallelFor(visits, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t visit = begin; visit < end; ++visit) {
      activation_.silu_multiply(gate + visit * inner, up + visit * inner, inner,
                                gate + visit * inner);
    }
  });
  return absl::OkStatus();
}

// x_ += the weighted sum of each row's visits, by ascending expert.
void Forward::AddVisits(const ExpertRoute& route, int64_t rows) {
  const int64_t per_row = plan_.model().experts_per_token();
  const float* visited = visited_.as<float>();
  pool_->ParallelFor(rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* sum = expert_sums_.as<float>() + row * hidden_;
      std::fill(sum, sum + hidden_, 0.0f);
      for (int64_t i = row * per_row; i < (row + 1) * per_row; ++i) {
        const auto at = static_cast<size_t>(i);
        matmul_.add_weighted(sum, visited + route.visits[at] * hidden_, route.weights[at], hidden_);
      }
      uint16_t* x = x_.as<uint16_t>() + row * hidden_;
      matmul_.finish(sum, hidden_, 1.0f, nullptr, nullptr, x, x);
    }
  });
}

absl::Status Forward::Moe(int64_t layer, const StepRows& rows) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  Norm(weights.mlp_norm, all_rows_);
  OCTAVO_ASSIGN_OR_RETURN(const ExpertRoute route, RouteToExperts(weights, rows.rows()));
  OCTAVO_RETURN_IF_ERROR(VisitExperts(weights, route));
  const int64_t inner = weights.experts.front().gate.channels;
  OCTAVO_RETURN_IF_ERROR(SeeVisits(v1::OBSERVED_MLP_INNER, gate_, route, inner));
  std::vector<RowRun> runs;
  for (size_t e = 0; e < weights.experts.size(); ++e) {
    if (route.begin[e] == route.begin[e + 1]) continue;
    const Linear& down = weights.experts[e].down;
    runs.push_back({&down, &MlpPieces(down), route.begin[e], route.begin[e + 1]});
  }
  LinearOutput visited;
  visited.f32 = visited_.as<float>();
  visited.stride = hidden_;
  OCTAVO_RETURN_IF_ERROR(RowParallel(runs, gate_.as<uint16_t>(), visited));
  AddVisits(route, rows.rows());
  return absl::OkStatus();
}

}  // namespace octavo
