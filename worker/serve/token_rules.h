#pragma once

// What a request does to a row of logits before a token is drawn from it, and what of its tokens
// matters for that: bias, the mask of min_tokens, penalties. In this order (docs/numerics.md,
// "Sampling"), in F32, for logit x of an id:
//
//   bias        x + logit_bias[id]
//   mask        -infinity for every stop id while fewer than min_tokens tokens are out
//   repetition  of ids in prompt or output: x > 0 ? x / penalty : x * penalty
//   frequency   x - penalty * (times in the output)
//   presence    of ids in the output: x - penalty
//
// The state is a function of the request and of the output so far: a request whose tokens are known
// is taken up again by giving them to Append.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

class TokenRules {
 public:
  // No rules, greedy.
  TokenRules() = default;

  // REQUIRES a request that CheckGeneration (core/text/generation_bounds.h) passed and a prompt
  // within the vocabulary. Errors: kBadRequest for a biased id outside the vocabulary, and where
  // min_tokens leaves no id to draw.
  static absl::StatusOr<TokenRules> Create(const v1::EngineRequest& request, int64_t vocab_size);

  // The row that is drawn from: `logits` itself where no rule changes it, else a copy in `buffer`.
  // Values are finite or -infinity, at least one is finite. REQUIRES a finite row.
  std::span<const float> Apply(std::span<const float> logits, std::vector<float>& buffer) const;

  // `id` was drawn.
  void Append(int32_t id);

  // `id` ends the output.
  bool IsStop(int32_t id) const;

  // Tokens drawn so far.
  uint32_t emitted() const { return emitted_; }
  const v1::Sampling& sampling() const { return sampling_; }

 private:
  v1::Sampling sampling_;
  uint32_t min_tokens_ = 0;
  uint32_t emitted_ = 0;
  float repetition_ = 1.0f;
  bool penalized_ = false;         // any penalty is on
  std::vector<int32_t> stop_ids_;  // within the vocabulary, ascending, each once
  // Times in the output, of every id that a penalty is about.
  absl::flat_hash_map<int32_t, uint32_t> counts_;
};

}  // namespace octavo
