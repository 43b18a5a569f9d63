#include "worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/philox.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// A token that may be drawn, with exp((logit - max) / temperature).
struct Candidate {
  int32_t id;
  float logit;
  float weight;
};

// More likely first; of equals the lower id.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The id whose share of [0, total) holds unit * total.
int32_t Draw(std::span<const Candidate> candidates, float unit) {
  double total = 0;
  for (const Candidate& c : candidates) total += static_cast<double>(c.weight);
  const double at = static_cast<double>(unit) * total;
  double sum = 0;
  int32_t last = candidates.front().id;
  for (const Candidate& c : candidates) {
    if (c.weight == 0.0f) continue;
    sum += static_cast<double>(c.weight);
    last = c.id;
    if (sum > at) break;
  }
  return last;
}

// Shortens sorted `candidates` to the fewest that reach `top_p`.
void KeepTopP(std::vector<Candidate>& candidates, float top_p) {
  double total = 0;
  for (const Candidate& c : candidates) total += static_cast<double>(c.weight);
  const double bar = static_cast<double>(top_p) * total;
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates.size() && sum < bar) {
    sum += static_cast<double>(candidates[kept++].weight);
  }
  candidates.resize(std::max<size_t>(kept, 1));
}

int32_t DrawFrom(std::span<const float> logits, float max, const v1::Sampling& sampling,
                 uint64_t position) {
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const float weight = Exp((logits[i] - max) / sampling.temperature());
    candidates[i] = {static_cast<int32_t>(i), logits[i], weight};
  }
  const bool by_p = sampling.top_p() > 0.0f && sampling.top_p() < 1.0f;
  if (sampling.top_k() > 0 && sampling.top_k() < candidates.size()) {
    const auto end = candidates.begin() + static_cast<ptrdiff_t>(sampling.top_k());
    std::nth_element(candidates.begin(), end, candidates.end(), Before);
    candidates.erase(end, candidates.end());
    std::sort(candidates.begin(), candidates.end(), Before);
  } else if (by_p) {
    std::sort(candidates.begin(), candidates.end(), Before);
  }
  if (by_p) KeepTopP(candidates, sampling.top_p());
  const PhiloxBlock words = PhiloxAt(sampling.seed(), position, 0);
  return Draw(candidates, UnitFloat(words[0]));
}

void AddTop(std::span<const float> logits, const LogSum& sum, uint32_t count,
            v1::EngineToken& token) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t kept = std::min<size_t>(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(kept), ids.end(),
                    [&](int32_t a, int32_t b) {
                      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
                    });
  for (size_t i = 0; i < kept; ++i) {
    v1::TokenLogprob& top = *token.add_top();
    top.set_id(ids[i]);
    top.set_logprob(sum.LogProb(logits[ids[i]]));
  }
}

}  // namespace

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::StatusOr<LogSum> LogSumOf(std::span<const float> logits, Isa isa) {
  const LogSum sum = SoftmaxOpsFor(isa).log_sum(logits.data(), std::ssize(logits));
  if (std::isfinite(sum.max)) return sum;
  const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
  return MakeError(Reason::kNonFinite,
                   fmt::format("logit {} is not a finite number", bad - logits.begin()));
}

absl::StatusOr<v1::EngineToken> Sample(std::span<const float> logits, const v1::Sampling& sampling,
                                       uint64_t position, const SampleOptions& options) {
  OCTAVO_ASSIGN_OR_RETURN(const LogSum sum, LogSumOf(logits, options.isa));
  v1::EngineToken token;
  token.set_id(sampling.temperature() == 0.0f ? ArgMax(logits)
                                              : DrawFrom(logits, sum.max, sampling, position));
  if (options.want_logprob || options.top_logprobs > 0) {
    token.set_logprob(sum.LogProb(logits[static_cast<size_t>(token.id())]));
  }
  if (options.top_logprobs > 0) AddTop(logits, sum, options.top_logprobs, token);
  return token;
}

absl::Status CheckSampling(const v1::Sampling& sampling) {
  if (!(sampling.temperature() >= 0.0f && sampling.temperature() <= 100.0f)) {
    return MakeError(Reason::kBadRequest, "temperature must be between 0 and 100");
  }
  if (sampling.temperature() > 0.0f && sampling.temperature() < 1e-3f) {
    return MakeError(Reason::kBadRequest, "temperature must be 0 or at least 0.001", {},
                     "use 0 for greedy decoding");
  }
  if (!(sampling.top_p() >= 0.0f && sampling.top_p() <= 1.0f)) {
    return MakeError(Reason::kBadRequest, "top_p must be between 0 and 1");
  }
  return absl::OkStatus();
}

}  // namespace octavo
