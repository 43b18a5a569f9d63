#pragma once

// Random checkpoints of a given family and shape, laid out like the hub's: shards with an index (or
// one file), config.json, generation_config.json and a small byte-level tokenizer, so that the
// model can be served.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/store/store.h"
#include "core/tensor/dtype.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

struct SynthSpec {
  // Everything of the model but eos/bos ids (the tokenizer's are used). Zeros take defaults:
  // head_dim hidden/heads, kv_head_count head_count, norm_eps 1e-5, rope_theta 10000, max_position
  // 2048, in mixtures the family's own number of experts. `family` empty: "llama".
  v1::ModelSpec model;
  DType dtype = DType::kBF16;  // F32, F16 or BF16
  uint64_t shard_bytes_max =
      5'000'000'000;  // of tensors per file; a larger tensor gets a file of its own
  int threads = 0;    // 0: all cores. Does not change the bytes.
};

// Weights are N(0, 1/sqrt(inputs)) for matrices (so activations keep their size), embeddings N(0,
// 1), norm weights 1 + N(0, 0.1), biases N(0, 0.02), each a function of (seed, tensor name, element
// index) only. Staged and renamed: `out_dir` must not exist (kOutputExists). A family without a row
// in core/model: kUnsupported; what the family cannot have (experts, biases ...): kUsage.
absl::Status WriteSynthetic(Store& store, const SynthSpec& spec, uint64_t seed,
                            const std::string& out_dir);
absl::Status WriteSynthetic(const SynthSpec& spec, uint64_t seed, const std::string& out_dir);

}  // namespace octavo
