// The mixture of experts of one layer: router, visits to experts, weighted sum.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "worker/runner/expert_coverage.h"
#include "worker/runner/expert_route.h"
#include "worker/runner/forward.h"

namespace octavo {

// Every rank holds the whole router and comes to the same route.
absl::StatusOr<ExpertRoute> Forward::RouteToExperts(const LayerWeights& weights,
                                                    const v1::Step& step, int64_t rows) {
  const Linear* router = &weights.router;
  OCTAVO_RETURN_IF_ERROR(
      inputs_.Prepare(std::span(&router, 1), normed_.as<uint16_t>(), hidden_, rows, nullptr));
  const int64_t experts = router->channels;
  LinearJob job = {router, inputs_.For(*router), {}};
  job.output.f32 = router_logits_.as<float>();
  job.output.stride = experts;
  OCTAVO_RETURN_IF_ERROR(Products(std::span(&job, 1)));
  const float* logits = router_logits_.as<float>();
  if (!std::all_of(logits, logits + rows * experts, [](float x) { return std::isfinite(x); })) {
    return MakeError(Reason::kNonFinite, "an activation is NaN or infinite at the router",
                     {.tensor = router->name}, "the model overflows BF16 on this input");
  }
  const int64_t per_row = plan_.model().experts_per_token();
  float* p = router_logits_.as<float>();
  ExpertRoute route =
      RouteRows(softmax_, p, rows, experts, per_row, plan_.model().normalized_experts());
  if (pass_.expert_quota > 0) {
    std::vector<int64_t> samples;
    for (const v1::StepChunk& chunk : step.chunks()) samples.push_back(chunk.tokens_size());
    CoverExperts(p, samples, pass_.expert_quota, &route);
  }
  return route;
}

int64_t Forward::VisitsAtATime(int64_t rows) const {
  if (!weights_.layers.front().has_router() || pass_.observe != nullptr) return rows;
  return rows * plan_.model().experts_per_token();
}

// Experts from `begin` on whose visits fit the buffers: all of them where a step is served.
Forward::ExpertRun Forward::RunFrom(const LayerWeights& weights, const ExpertRoute& route,
                                    size_t begin, int64_t rows) const {
  size_t end = begin + 1;
  while (end < weights.experts.size() &&
         route.begin[end + 1] - route.begin[begin] <= VisitsAtATime(rows)) {
    ++end;
  }
  return {&weights, &route, begin, end};
}

absl::Status Forward::SeeVisits(v1::ObservedPoint point, const GrowingBuffer& x,
                                const ExpertRun& run, int64_t columns) {
  if (pass_.observe == nullptr) return absl::OkStatus();
  for (size_t e = run.begin; e < run.end; ++e) {
    const int64_t begin = run.route->begin[e];
    OCTAVO_RETURN_IF_ERROR((*pass_.observe)(
        {point, static_cast<int32_t>(e), x.as<uint16_t>() + (begin - run.first_visit()) * columns,
         run.route->begin[e + 1] - begin, columns, run.route->routed_end[e] - begin}));
  }
  return absl::OkStatus();
}

// gate_ = silu(gate) * up of every visit, rows of visits in the route's order.
absl::Status Forward::EnterExperts(const ExpertRun& run) {
  const ExpertRoute& route = *run.route;
  const int64_t first = run.first_visit();
  const int64_t visits = run.visits();
  uint16_t* gathered = gathered_.as<uint16_t>();
  pool_->ParallelFor(visits, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t visit = begin; visit < end; ++visit) {
      std::memcpy(gathered + visit * hidden_,
                  normed_.as<uint16_t>() + route.rows[static_cast<size_t>(first + visit)] * hidden_,
                  static_cast<size_t>(hidden_) * 2);
    }
  });
  OCTAVO_RETURN_IF_ERROR(SeeVisits(v1::OBSERVED_MLP_INPUT, gathered_, run, hidden_));
  std::vector<InputUse> uses;  // gate and up, expert by expert
  for (size_t e = run.begin; e < run.end; ++e) {
    if (route.begin[e] == route.begin[e + 1]) continue;
    const ExpertWeights& expert = run.weights->experts[e];
    uses.push_back({&expert.gate, route.begin[e] - first, route.begin[e + 1] - first});
    uses.push_back({&expert.up, route.begin[e] - first, route.begin[e + 1] - first});
  }
  OCTAVO_RETURN_IF_ERROR(inputs_.Prepare(uses, gathered, hidden_, nullptr));
  const int64_t inner = uses.front().linear->channels;
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
  OCTAVO_RETURN_IF_ERROR(Products(jobs));
  pool_->ParallelFor(visits, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t visit = begin; visit < end; ++visit) {
      activation_.silu_multiply(gate + visit * inner, up + visit * inner, inner,
                                gate + visit * inner);
    }
  });
  return SeeVisits(v1::OBSERVED_MLP_INNER, gate_, run, inner);
}

// The run's experts from input to weighted sum.
absl::Status Forward::VisitExperts(const ExpertRun& run, int64_t rows) {
  if (run.visits() == 0) {  // worth knowing, too
    OCTAVO_RETURN_IF_ERROR(SeeVisits(v1::OBSERVED_MLP_INPUT, gathered_, run, hidden_));
    return SeeVisits(v1::OBSERVED_MLP_INNER, gate_, run,
                     run.weights->experts.front().gate.channels);
  }
  OCTAVO_RETURN_IF_ERROR(EnterExperts(run));
  std::vector<RowRun> runs;
  for (size_t e = run.begin; e < run.end; ++e) {
    const int64_t begin = run.route->begin[e];
    const int64_t end = run.route->routed_end[e];
    if (begin == end) continue;
    const Linear& down = run.weights->experts[e].down;
    runs.push_back({&down, &MlpPieces(down), begin - run.first_visit(), end - run.first_visit()});
  }
  if (runs.empty()) return absl::OkStatus();
  LinearOutput visited;
  visited.f32 = visited_.as<float>();
  visited.stride = hidden_;
  OCTAVO_RETURN_IF_ERROR(RowParallel(runs, gate_.as<uint16_t>(), visited));
  AddVisits(run, rows);
  return absl::OkStatus();
}

// Each row's sum grows by ascending expert, run after run.
void Forward::AddVisits(const ExpertRun& run, int64_t rows) {
  const int64_t per_row = plan_.model().experts_per_token();
  const int64_t first = run.first_visit();
  const int64_t end_visit = first + run.visits();
  pool_->ParallelFor(rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* sum = expert_sums_.as<float>() + row * hidden_;
      for (int64_t i = row * per_row; i < (row + 1) * per_row; ++i) {
        const int64_t visit = run.route->visits[static_cast<size_t>(i)];
        if (visit < first || visit >= end_visit) continue;
        matmul_.add_weighted(sum, visited_.as<float>() + (visit - first) * hidden_,
                             run.route->weights[static_cast<size_t>(i)], hidden_);
      }
    }
  });
}

void Forward::AddExpertSums(int64_t rows) {
  pool_->ParallelFor(rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      uint16_t* x = x_.as<uint16_t>() + row * hidden_;
      matmul_.finish(expert_sums_.as<float>() + row * hidden_, hidden_, 1.0f, nullptr, nullptr, x,
                     x);
    }
  });
}

absl::Status Forward::Moe(int64_t layer, const v1::Step& step, const StepRows& rows) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t count = rows.rows();
  Norm(weights.mlp_norm, all_rows_);
  OCTAVO_ASSIGN_OR_RETURN(const ExpertRoute route, RouteToExperts(weights, step, count));
  for (size_t e = 0; e < expert_tokens_.size(); ++e) {
    expert_tokens_[e] += static_cast<uint64_t>(route.routed_end[e] - route.begin[e]);
  }
  std::fill_n(expert_sums_.as<float>(), count * hidden_, 0.0f);
  for (size_t begin = 0; begin < weights.experts.size();) {
    const ExpertRun run = RunFrom(weights, route, begin, count);
    OCTAVO_RETURN_IF_ERROR(VisitExperts(run, count));
    begin = run.end;
  }
  AddExpertSums(count);
  return absl::OkStatus();
}

}  // namespace octavo
