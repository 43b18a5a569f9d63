#pragma once

// What one rank holds of a model: its slices of every tensor, packed for the kernels. Only the
// slices' byte ranges are read. Every value is checked on the way: a NaN, an infinity, a NaN code
// or a scale that is not finite and > 0 is an error that names file, tensor and offset.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/shard_files.h"
#include "worker/runner/weight_bytes.h"

namespace octavo {

// A gated MLP: down(silu(gate) * up).
struct ExpertWeights {
  Linear gate, up, down;
};

struct LayerWeights {
  std::vector<uint16_t> attention_norm;  // [hidden], BF16
  std::vector<uint16_t> mlp_norm;
  Linear query, key, value, output;
  std::vector<uint16_t> query_norm, key_norm;  // [head_dim], BF16; empty: none
  // A dense layer has one MLP and no router; a mixture has several, all alike in shape.
  Linear router;
  std::vector<ExpertWeights> experts;

  bool has_router() const { return router.channels > 0; }
};

struct WeightSet {
  // Rows [vocab_begin, vocab_end) of the embedding, BF16; empty where it is tied: rows are then
  // read out of the packed head.
  Buffer embedding;
  Linear head;
  bool tied = false;
  std::vector<uint16_t> final_norm;
  std::vector<LayerWeights> layers;

  WeightBytes held() const;
  // Copies one row, by its index within this rank's rows, to `out` ([hidden] BF16).
  void EmbeddingRow(int64_t row, int64_t hidden, uint16_t* out) const;
};

// `isa`: of what is quantized at load.
absl::StatusOr<WeightSet> LoadWeights(const v1::ServePlan& plan, uint32_t rank, ShardFiles* files,
                                      Arena* arena, ThreadPool* pool, Isa isa);

// Whether a layer's matrices lie in memory or are read when a product needs them
// (weight_stream.h). Norms and biases always lie in memory.
enum class Residency : uint8_t { kResident = 0, kStreamed = 1 };

// The weights of a plan of one layer and one rank (core/plan/layer_plan.h), not quantized. Streamed
// weights point into `plan`.
absl::StatusOr<LayerWeights> LoadLayer(const v1::ServePlan& plan, Residency residency,
                                       ShardFiles* files, Arena* arena, ThreadPool* pool);

}  // namespace octavo
