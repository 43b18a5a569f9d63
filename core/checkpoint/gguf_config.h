#pragma once

// The facts that a GGUF file's metadata tells, and which of its tensors is which.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/checkpoint/gguf.h"
#include "core/model/family.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// Architecture, sizes, RoPE, token ids; dtype BF16. kUnsupported for an architecture other than
// llama and for RoPE that config.json cannot say; kBadCheckpoint for missing or contradictory
// facts. RoPE scaling is read from the metadata; the factors of Llama 3.1 (tensor
// rope_freqs.weight) are resolved by RopeScalingFromFactors.
absl::StatusOr<v1::ModelSpec> GgufModelSpec(const GgufFile& file);

// The llama3 scaling whose per-frequency factors are `factors` (low 1, high 4, original 8192 or
// what context fits), or kUnsupported when there is none.
absl::StatusOr<v1::RopeScaling> RopeScalingFromFactors(std::span<const float> factors,
                                                       const v1::ModelSpec& spec);

inline constexpr std::string_view kRopeFactorsTensor = "rope_freqs.weight";

// One tensor of the output and where it comes from.
struct GgufSource {
  ExpectedTensor target;
  const GgufTensor* source = nullptr;  // into the GgufFile
  // Rows of each head are stored with its two halves interleaved: this many rows per head, 0 when
  // rows are in order.
  int64_t interleaved_head_rows = 0;
};

// Every tensor that a checkpoint of `spec` needs, in model order. kBadCheckpoint: one missing, left
// over or of the wrong shape; kUnsupported: a type that cannot be dequantized, naming the tensor.
absl::StatusOr<std::vector<GgufSource>> MatchGgufTensors(const GgufFile& file,
                                                         const v1::ModelSpec& spec);

}  // namespace octavo
