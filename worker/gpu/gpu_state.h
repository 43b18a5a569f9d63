#pragma once

// What a GpuModel holds, and the parts of its forward pass. For worker/gpu alone.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/simt/memory.h"
#include "worker/gpu/gpu_model.h"
#include "worker/gpu/gpu_step.h"
#include "worker/gpu/gpu_weights.h"
#include "worker/runner/kv_cache.h"

namespace octavo {

struct GpuModel::State {
  v1::ServePlan plan;
  GpuWeights weights;
  std::vector<KvScale> scales;  // by layer; empty: a BF16 cache
  DeviceArray<uint16_t> cos, sin;
  DeviceArray<std::byte> cache;
  // Of a step of plan.max_batched_tokens.
  DeviceArray<uint16_t> x, normed, query, key, value, attended, gate, up;
  // Of mixtures: rows of visits as they come and as they leave, and the route (cuda::RouteTokens).
  DeviceArray<uint16_t> gathered;
  DeviceArray<float> visited, router_logits, visit_weights;
  DeviceArray<int32_t> chosen, visits, visit_begin, visitors;
  DeviceArray<uint8_t> codes;
  DeviceArray<float> row_scales, logits;
  // The largest magnitude that is not finite; a bad id's row + 1; a bad row of the router's + 1.
  DeviceArray<uint32_t> flags;
  DeviceArray<std::byte> workspace;
  GpuStep step;
  simt::Stream stream = nullptr;

  int64_t hidden() const { return plan.model().hidden_size(); }
  // Rows of a layer's MLP in the largest step: visits where it is a mixture.
  int64_t mlp_rows() const {
    return plan.max_batched_tokens() *
           (plan.model().expert_count() > 0 ? plan.model().experts_per_token() : 1);
  }
  int64_t group() const { return plan.model().head_count() / plan.model().kv_head_count(); }

  absl::Status Reserve();
  absl::Status ReserveMixture();
  cuda::KvPages Pages(size_t layer) const;
  // `rows` rows of `input` through one layer, or, sorted by expert, through all experts'.
  absl::Status Product(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                       const cuda::DenseFinish& finish);
  absl::Status ToBf16(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                      const uint16_t* residual, uint16_t* out);
  void Norm(const DeviceArray<uint16_t>& weight, const int32_t* picked, int64_t rows);
  absl::Status Attention(size_t layer);
  // gate = silu(gate) * up of `rows` rows of `input`.
  absl::Status GateUp(const GpuLayer& layer, const uint16_t* input, int64_t rows);
  absl::Status Mlp(const GpuLayer& layer, int64_t rows);
  absl::Status Moe(const GpuLayer& layer, int64_t rows);
  absl::Status Head(Logits* out);
  absl::Status CheckFlags() const;
};

}  // namespace octavo
