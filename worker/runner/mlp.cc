// The gated MLP of one layer.

#include "core/base/status.h"
#include "worker/runner/forward.h"

namespace octavo {

absl::Status Forward::Mlp(int64_t layer, const StepRows& rows) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const ExpertWeights& mlp = weights.experts.front();
  Norm(weights.mlp_norm, all_rows_);
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_MLP_INPUT, normed_, rows.rows(), hidden_));
  const Linear* linears[] = {&mlp.gate, &mlp.up};
  OCTAVO_RETURN_IF_ERROR(
      inputs_.Prepare(linears, normed_.as<uint16_t>(), hidden_, rows.rows(), nullptr));
  const int64_t inner = mlp.gate.channels;
  LinearJob jobs[2];
  const GrowingBuffer* outputs[] = {&gate_, &up_};
  for (int i = 0; i < 2; ++i) {
    jobs[i].linear = linears[i];
    jobs[i].input = inputs_.For(*linears[i]);
    jobs[i].output.bf16 = outputs[i]->as<uint16_t>();
    jobs[i].output.stride = inner;
  }
  OCTAVO_RETURN_IF_ERROR(Products(jobs));
  uint16_t* gate = gate_.as<uint16_t>();
  const uint16_t* up = up_.as<uint16_t>();
  pool_->ParallelFor(rows.rows(), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      activation_.silu_multiply(gate + row * inner, up + row * inner, inner, gate + row * inner);
    }
  });
  OCTAVO_RETURN_IF_ERROR(See(v1::OBSERVED_MLP_INNER, gate_, rows.rows(), inner));
  const RowRun run = {&mlp.down, &MlpPieces(mlp.down), 0, rows.rows()};
  return RowParallel(std::span(&run, 1), gate, Residual());
}

}  // namespace octavo
