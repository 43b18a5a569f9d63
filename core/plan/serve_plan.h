#pragma once

// How a checkpoint is laid over the ranks of a serving group: which units of K, KV groups and rows
// of the vocabulary each rank owns, which rows or columns of which tensor it reads, and what memory
// that takes. Pure: same inputs, same plan, on every machine. (docs/numerics.md section 5: units.)

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "core/base/limits.h"
#include "octavo/v1/inference.pb.h"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// One tensor as it lies on disk. Scale tensors are not listed on their own: they belong to their
// weight.
struct ServedTensor {
  v1::ModelTensor tensor;
  std::optional<v1::Scheme> scheme;           // absent: not quantized
  std::optional<v1::TensorSpec> scale;        // with `scheme`
  std::optional<v1::TensorSpec> input_scale;  // with a static input
  bool quantized_at_load = false;             // by `scheme`; not quantized on disk
};

struct ServeOptions {
  uint32_t rank_count = 1;
  int64_t max_model_len = 0;       // 0: the model's own, shortened to fit the budget
  uint64_t rank_memory_bytes = 0;  // for weights, KV cache and scratch of one rank; 0: no limit
  uint32_t max_batched_tokens = kBatchedTokens;  // of one step
  uint32_t max_sequences = 1;                    // running at once
  v1::CacheType cache_type = v1::CACHE_AUTO;
  bool kv_scale_one = false;  // an FP8 cache of a checkpoint without scales has scales of 1
  v1::HeadType head_type = v1::HEAD_AS_STORED;
  int64_t kv_cache_tokens = 0;  // of all sequences; 0: what the budget leaves
};

// The KV cache gets what the budget leaves beside weights and scratch: at least one sequence of
// max_model_len, at most max_sequences of them, and no more than kv_cache_tokens.
//
// Refused, with the reason: more ranks than KV heads or than units of K (a unit would be cut), a
// rank count that cuts a block-scaled unit, no or more sequences than tokens of a step, missing or
// misshapen tensors (kBadCheckpoint), schemes that the runner does not compute (kUnsupported), a
// budget that does not hold the weights or an explicit max_model_len (kOutOfMemory, with the
// numbers), an FP8 cache without scales where kv_scale_one does not allow it, kv_scale_one for any
// other cache, a head to be quantized that has eight bits, a kv_cache_tokens that holds no sequence
// of an explicit max_model_len (kBadRequest). `cache_scales`: of every layer's keys and values,
// where the checkpoint has them; they are used whatever kv_scale_one says. A tied head that is to
// be quantized makes a plan of a model that is not tied, both of whose tensors are read from the
// embedding.
absl::StatusOr<v1::ServePlan> PlanServing(const v1::ModelSpec& model,
                                          std::span<const ServedTensor> tensors,
                                          const ServeOptions& options,
                                          std::span<const v1::CacheScales> cache_scales = {});

}  // namespace octavo
