#include "worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/philox.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// TakeMostLikely looks at this many too many at least before it cuts.
constexpr size_t kSpareCandidates = 64;

template <typename Candidates>
uint64_t TotalWeight(const Candidates& candidates) {
  uint64_t total = 0;
  for (const auto& c : candidates) total += c.weight;
  return total;
}

}  // namespace

absl::StatusOr<LogSum> LogSumOf(std::span<const float> logits, Isa isa) {
  const LogSum sum = SoftmaxOpsFor(isa).log_sum(logits.data(), std::ssize(logits));
  if (std::isfinite(sum.max)) return sum;
  const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
  return MakeError(Reason::kNonFinite,
                   fmt::format("logit {} is not a finite number", bad - logits.begin()));
}

void Sampler::TakeMostLikely(std::span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  const size_t room = count + std::max(count, kSpareCandidates);
  const auto cut = [&] {
    const auto end = candidates_.begin() + static_cast<ptrdiff_t>(count);
    std::nth_element(candidates_.begin(), end - 1, candidates_.end());
    candidates_.erase(end, candidates_.end());
  };
  candidates_.clear();
  bool full = false;
  float bar = 0;  // once full: the last of the first `count` so far
  for (size_t i = 0; i < logits.size(); ++i) {
    if (full && logits[i] <= bar) continue;  // of equals the lower id is in already
    candidates_.push_back({static_cast<int32_t>(i), logits[i], 0});
    if (candidates_.size() < room) continue;
    cut();
    full = true;
    bar = candidates_.back().logit;
  }
  if (candidates_.size() > count) cut();
}

size_t Sampler::CountReaching(uint64_t weight) {
  size_t low = 0;  // too few
  size_t high = candidates_.size();
  uint64_t before = 0;  // what the first `low` weigh
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    const auto begin = candidates_.begin() + static_cast<ptrdiff_t>(low);
    const auto cut = candidates_.begin() + static_cast<ptrdiff_t>(middle);
    std::nth_element(begin, cut, candidates_.begin() + static_cast<ptrdiff_t>(high));
    const uint64_t sum = TotalWeight(std::span(begin, cut)) + before;
    if (sum >= weight) {
      high = middle;
    } else {
      low = middle;
      before = sum;
    }
  }
  return high;
}

void Sampler::FindProbabilities(std::span<const float> logits, float temperature, float min_p) {
  const SoftmaxOps& ops = SoftmaxOpsFor(isa_);
  probabilities_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    probabilities_[i] = std::clamp(logits[i] / temperature, std::numeric_limits<float>::lowest(),
                                   std::numeric_limits<float>::max());
  }
  ops.softmax(probabilities_.data(), std::ssize(probabilities_), probabilities_.data());
  const int64_t best = ops.argmax(probabilities_.data(), std::ssize(probabilities_));
  least_probability_ = min_p * probabilities_[static_cast<size_t>(best)];
}

uint64_t Sampler::WeightOf(size_t id) const {
  const float probability = probabilities_[id];
  if (probability < least_probability_) return 0;
  return static_cast<uint64_t>(static_cast<double>(probability) * 0x1p44);
}

uint64_t Sampler::KeepTopP(std::span<const float> logits, float top_p, bool chosen,
                           uint64_t total) {
  const auto bar =
      static_cast<uint64_t>(std::ceil(static_cast<double>(top_p) * static_cast<double>(total)));
  if (!chosen) {
    // All that weigh less, together, are less than what is left out at most.
    const uint64_t least = std::max<uint64_t>((total - bar) / logits.size(), 1);
    candidates_.clear();
    for (size_t id = 0; id < logits.size(); ++id) {
      const uint64_t weight = WeightOf(id);
      if (weight >= least) candidates_.push_back({static_cast<int32_t>(id), logits[id], weight});
    }
  }
  candidates_.resize(CountReaching(bar));
  return TotalWeight(candidates_);
}

int32_t Sampler::DrawFrom(std::span<const float> logits, const v1::Sampling& sampling,
                          uint64_t position) {
  if (sampling.temperature() == 0.0f) {
    return static_cast<int32_t>(SoftmaxOpsFor(isa_).argmax(logits.data(), std::ssize(logits)));
  }
  FindProbabilities(logits, sampling.temperature(), sampling.min_p());
  const bool by_k = sampling.top_k() > 0 && sampling.top_k() < logits.size();
  const bool by_p = sampling.top_p() > 0.0f && sampling.top_p() < 1.0f;
  uint64_t total = 0;
  if (by_k) {
    // min_p keeps a beginning of the order, as top_k does: which is first does not matter.
    TakeMostLikely(logits, sampling.top_k());
    for (Candidate& c : candidates_) c.weight = WeightOf(static_cast<size_t>(c.id));
    total = TotalWeight(candidates_);
  } else {
    for (size_t id = 0; id < logits.size(); ++id) total += WeightOf(id);
  }
  if (by_p) total = KeepTopP(logits, sampling.top_p(), by_k, total);
  uint64_t left = UniformBelow(total, sampling.seed(), position, 0);
  if (by_k || by_p) return candidates_[CountReaching(left + 1) - 1].id;
  for (size_t id = 0;; ++id) {
    const uint64_t weight = WeightOf(id);
    if (left < weight) return static_cast<int32_t>(id);
    left -= weight;
  }
}

void Sampler::AddDetail(std::span<const float> logits, const LogSum& sum, const TokenDetail& detail,
                        v1::EngineToken& token) {
  if (!detail.logprob && detail.top == 0) return;
  token.set_logprob(sum.LogProb(logits[static_cast<size_t>(token.id())]));
  if (detail.top == 0) return;
  TakeMostLikely(logits, detail.top);
  std::sort(candidates_.begin(), candidates_.end());
  for (const Candidate& c : candidates_) {
    v1::TokenLogprob& top = *token.add_top();
    top.set_id(c.id);
    top.set_logprob(sum.LogProb(c.logit));
  }
}

absl::StatusOr<v1::EngineToken> Sampler::Sample(std::span<const float> logits,
                                                const TokenRules& rules, uint64_t position,
                                                const TokenDetail& detail) {
  OCTAVO_ASSIGN_OR_RETURN(const LogSum sum, LogSumOf(logits, isa_));
  v1::EngineToken token;
  token.set_id(DrawFrom(rules.Apply(logits, row_), rules.sampling(), position));
  AddDetail(logits, sum, detail, token);
  return token;
}

absl::StatusOr<v1::EngineToken> Sampler::Describe(std::span<const float> logits, int32_t id,
                                                  const TokenDetail& detail) {
  OCTAVO_ASSIGN_OR_RETURN(const LogSum sum, LogSumOf(logits, isa_));
  v1::EngineToken token;
  token.set_id(id);
  AddDetail(logits, sum, detail, token);
  return token;
}

}  // namespace octavo
