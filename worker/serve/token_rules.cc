#include "worker/serve/token_rules.h"

#include <algorithm>
#include <limits>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr float kUnreachable = -std::numeric_limits<float>::infinity();

}  // namespace

absl::StatusOr<TokenRules> TokenRules::Create(const v1::EngineRequest& request,
                                              int64_t vocab_size) {
  TokenRules rules;
  rules.sampling_ = request.sampling();
  rules.min_tokens_ = request.min_tokens();
  for (const auto& [id, bias] : rules.sampling_.logit_bias()) {
    if (id < 0 || id >= vocab_size) {
      return MakeError(
          Reason::kBadRequest,
          fmt::format("logit_bias has id {}, outside the vocabulary of {}", id, vocab_size));
    }
  }
  // A model may name ids of end-of-text that it has no logits for: they never come.
  std::ranges::copy_if(request.stop_ids(), std::back_inserter(rules.stop_ids_),
                       [&](int32_t id) { return id >= 0 && id < vocab_size; });
  std::ranges::sort(rules.stop_ids_);
  const auto repeated = std::ranges::unique(rules.stop_ids_);
  rules.stop_ids_.erase(repeated.begin(), repeated.end());
  if (rules.min_tokens_ > 0 && std::ssize(rules.stop_ids_) >= vocab_size) {
    return MakeError(
        Reason::kBadRequest,
        fmt::format("every id is a stop id, which min_tokens {} forbids", rules.min_tokens_));
  }
  const float repetition = rules.sampling_.repetition_penalty();
  if (repetition != 0.0f) rules.repetition_ = repetition;
  rules.penalized_ = rules.repetition_ != 1.0f || rules.sampling_.presence_penalty() != 0.0f ||
                     rules.sampling_.frequency_penalty() != 0.0f;
  if (rules.repetition_ != 1.0f) {
    for (const int32_t id : request.prompt()) rules.counts_.try_emplace(id, 0);
  }
  return rules;
}

std::span<const float> TokenRules::Apply(std::span<const float> logits,
                                         std::vector<float>& buffer) const {
  const bool masked = emitted_ < min_tokens_ && !stop_ids_.empty();
  if (!masked && counts_.empty() && sampling_.logit_bias().empty()) return logits;
  buffer.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : sampling_.logit_bias()) buffer[static_cast<size_t>(id)] += bias;
  if (masked) {
    for (const int32_t id : stop_ids_) buffer[static_cast<size_t>(id)] = kUnreachable;
  }
  // Every id is changed by what is known of it alone, so their order does not matter.
  for (const auto& [id, count] : counts_) {
    float x = buffer[static_cast<size_t>(id)];
    if (x == kUnreachable) continue;
    x = x > 0.0f ? x / repetition_ : x * repetition_;
    if (count > 0) {
      x -= sampling_.frequency_penalty() * static_cast<float>(count);
      x -= sampling_.presence_penalty();
    }
    // Logits near the end of F32 must not leave it.
    buffer[static_cast<size_t>(id)] =
        std::clamp(x, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
  }
  return buffer;
}

void TokenRules::Append(int32_t id) {
  ++emitted_;
  if (penalized_) ++counts_[id];
}

bool TokenRules::IsStop(int32_t id) const { return std::ranges::binary_search(stop_ids_, id); }

}  // namespace octavo
