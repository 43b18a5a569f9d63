#pragma once

// From a row of logits to a token. A draw depends on the logits, the settings and (seed, position)
// alone (Philox, core/tensor/bare/philox.h): a request can be replayed from its token log.

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

// The id of the largest logit; the lowest of equals. REQUIRES a non-empty row without NaN.
int32_t ArgMax(std::span<const float> logits);

// log(sum(exp(logits))) by lane sum around the maximum (docs/numerics.md sections 1 and 6). Errors:
// kNonFinite for a NaN or an infinity.
struct LogSum {
  float max = 0;
  float log = 0;  // of the sum of exp(x - max)
  // Log probability of a logit of the row.
  float LogProb(float logit) const { return (logit - max) - log; }
};
absl::StatusOr<LogSum> LogSumOf(std::span<const float> logits);

struct SampleOptions {
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
