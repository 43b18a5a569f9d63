#pragma once

// From a row of logits to a token. A draw depends on the logits, the settings and (seed, position)
// alone (Philox, core/tensor/bare/philox.h): a request can be replayed from its token log.

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/softmax.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

// The id of the largest logit; the lowest of equals. REQUIRES a non-empty row without NaN.
int32_t ArgMax(std::span<const float> logits);

// What makes log probabilities of a row's logits. Errors: kNonFinite for a NaN or an infinity.
absl::StatusOr<LogSum> LogSumOf(std::span<const float> logits, Isa isa);

struct SampleOptions {
  Isa isa = BestIsa();        // the same bits for all
  bool want_logprob = false;  // of the raw logits, before temperature
  uint32_t top_logprobs = 0;  // that many most likely ids with theirs
};

// Temperature 0 is ArgMax. Otherwise: logits / temperature; the top_k most likely stay (ties to the
// lower id); of those, the fewest most likely whose probability reaches top_p; one is drawn.
// `position` is the token's own position in its sequence. Errors: kNonFinite.
absl::StatusOr<v1::EngineToken> Sample(std::span<const float> logits, const v1::Sampling& sampling,
                                       uint64_t position, const SampleOptions& options);

// Errors: kBadRequest naming the field that is out of range.
absl::Status CheckSampling(const v1::Sampling& sampling);

}  // namespace octavo
